"""`isic-2020`: 33126 dermoscopic pictures without masks, of which 425 are listed as duplicates.

`train/ISIC_0000000.jpg`, with `ISIC_2020_Training_GroundTruth.csv` (whose picture it is) and
`ISIC_2020_Training_Duplicates.csv` beside the folder or in it; of a pair the second is dropped.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, files_by_stem, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.lists import read_table
from fedssl.data.layouts.tree import need, wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_TRUTH = "ISIC_2020_Training_GroundTruth.csv"
_DUPLICATES = "ISIC_2020_Training_Duplicates.csv"
_EXPECTED = f"train/ISIC_*.jpg, {_TRUTH} and {_DUPLICATES}"


@layout("isic-2020", published={"images": 33126 - 425})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures without the duplicates; the patient is the subject.

    Raises:
        DataError: no such tree, no table of patients, or it lacks a picture.
    """
    root = site_folder(spec.path, spec.name)
    folder = need(spec, root, "isic-2020", _EXPECTED, ("train",), ("jpeg", "train"), ())
    images = files_by_stem(folder)
    if not images:
        raise wrong_tree(spec, root, "isic-2020", _EXPECTED)
    places = list(dict.fromkeys((root, folder, folder.parent)))
    truth = _beside(places, _TRUTH)
    if truth is None:
        raise DataError(
            f"Site {spec.name!r}: {root} has no {_TRUTH}, which tells the patients apart; copy it "
            "beside train, so that a split never cuts a patient."
        )
    patients = {
        row["image_name"]: row["patient_id"]
        for row in read_table(truth, "image_name", "patient_id")
    }
    unknown = [stem for stem in images if not patients.get(stem)]
    if unknown:
        raise DataError(f"{truth} has no patient of {unknown[0]!r} ({len(unknown)} in all).")
    duplicates = _beside(places, _DUPLICATES)
    rows = read_table(duplicates, "image_name_1", "image_name_2") if duplicates else []
    dropped = {row["image_name_2"] for row in rows}
    return [CaseFile(s, patients[s], path) for s, path in images.items() if s not in dropped]


def _beside(places: list[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)
