"""Slices in files of their own, as the volumes that they are slices of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fedssl.data.layouts.cases import CaseFile
from fedssl.errors import DataError

__all__ = ["VOLUMES", "as_volumes", "slice_number"]

VOLUMES = {"volumes": "true: the slices of a scan are one volume; else each is a picture"}


def slice_number(name: str) -> int:
    """Return the last number in a slice's name.

    Raises:
        DataError: there is none.
    """
    numbers = re.findall(r"\d+", name)
    if not numbers:
        raise DataError(f"The name {name!r} has no slice number; number the slices in their order.")
    return int(numbers[-1])


def as_volumes(slices: Sequence[CaseFile]) -> list[CaseFile]:
    """Return one case per subject, its slices in the order of their numbers.

    A volume has a mask if all its slices have one.
    """
    grouped: dict[str, list[CaseFile]] = {}
    for part in slices:
        grouped.setdefault(part.subject, []).append(part)
    volumes = []
    for subject, parts in grouped.items():
        ordered = tuple(sorted(parts, key=lambda part: (slice_number(part.name), part.name)))
        first = ordered[0]
        label = first.label if all(part.label is not None for part in ordered) else None
        volumes.append(replace(first, name=subject, label=label, slices=ordered))
    return volumes
