"""`cvc-clinicdb`: 612 frames of 29 colonoscopies, `Original/N.tif` with `Ground Truth/N.tif`.

The copies with `PNG/Original` or `{images,masks}/N.png` are read as well. Frames of a sequence look
alike, so the sequence is the subject; which frame belongs to which is the table on the page of the
data set (polyp.grand-challenge.org/CVCClinicDB).
"""

from __future__ import annotations

from bisect import bisect_left

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.polyps import IMAGES, MASKS, side_by_side
from fedssl.data.layouts.tree import wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_LAST_FRAMES = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317),
    *(342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)
"""Last frame of each sequence; frames are numbered from 1 through all of them."""


def _sequence(stem: str) -> str:
    if stem.isdecimal() and 1 <= int(stem) <= _LAST_FRAMES[-1]:
        return f"sequence{bisect_left(_LAST_FRAMES, int(stem)) + 1:02}"
    return stem


@layout("cvc-clinicdb", published={"images": 612, "masks": 612, "subjects": 29})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the frames; each sequence is a subject.

    Raises:
        DataError: no such tree, or a mask without its frame.
    """
    root = site_folder(spec.path, spec.name)
    cases = side_by_side(
        root,
        [("Original", "Ground Truth"), (IMAGES, MASKS)],
        [(), ("PNG",), ("TIF",), ("CVC-ClinicDB",), ("CVC-ClinicDB", "PNG")],
        _sequence,
    )
    if not cases:
        expected = "Original/N.tif and Ground Truth/N.tif, or images/N.png and masks/N.png"
        raise wrong_tree(spec, root, "cvc-clinicdb", expected)
    return cases
