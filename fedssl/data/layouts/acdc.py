"""What the ACDC layouts share: names of patients, frames and slices."""

from __future__ import annotations

import re

__all__ = ["ACDC_LISTS", "frame_of", "patient_of"]

ACDC_LISTS = {
    "train": ("train.list", "train.txt"),
    "val": ("val.list", "val.txt"),
    "test": ("test.list", "test.txt"),
}

_NAME = re.compile(r"(?i)((patient\d+)_frame\d+)(_slice_\d+)?")


def frame_of(name: str) -> str:
    """Return `patientPPP_frameFF` of a frame's or a slice's name; else nothing."""
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def patient_of(name: str) -> str:
    """Return `patientPPP` of a frame's or a slice's name; else the name."""
    match = _NAME.fullmatch(name)
    return match[2] if match else name
