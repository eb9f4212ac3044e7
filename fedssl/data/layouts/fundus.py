"""What the fundus layouts share: disc and cup in one grey mask."""

from __future__ import annotations

import re

from fedssl.data.layouts.cases import MaskCode
from fedssl.data.layouts.layout import choice
from fedssl.federation import SiteSpec

__all__ = ["STRUCTURE", "fundus_code", "fundus_subject"]

STRUCTURE = {
    "structure": "disc-cup (default: classes background, disc, cup), disc (with the cup in it) or "
    "cup"
}

_EYE = re.compile(r"(?i)([gns]-\d+)-[lr]")
"""RIM-ONE names a person and an eye, e.g. `G-1-L`."""


def fundus_code(spec: SiteSpec) -> MaskCode:
    """Return the code of a mask with 0 = cup, 128 = rim of the disc, 255 = background.

    The borders between them leave room for interpolated values. A mask that is dark in its corners
    is taken for the same thing inverted.
    """
    structure = choice(spec, "structure", ("disc-cup", "disc", "cup"), "disc-cup")
    cup, rim = {"disc-cup": (2, 1), "disc": (1, 1), "cup": (1, 0)}[structure]
    return MaskCode(((0, 50, cup), (51, 200, rim), (201, 255, 0)), inverted="corners")


def fundus_subject(stem: str) -> str:
    """Return whose eye an image shows, as far as its name tells."""
    match = _EYE.fullmatch(stem)
    return match[1] if match else stem
