"""`msd`: a task of the Medical Segmentation Decathlon, as its `dataset.json` lists it.

`Task04_Hippocampus/{dataset.json,imagesTr,labelsTr,imagesTs}`; images may have four axes, the last
of them channels. The archives leave `._*` files, which are no images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedssl.data.formats import stem_of
from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.decathlon import CASES, label_code, training_count, wanted_parts
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.lists import is_there, read_json
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_EXPECTED = "dataset.json, imagesTr/*.nii.gz and labelsTr/*.nii.gz, with path at one task"


def _counts(spec: SiteSpec) -> dict[str, int]:
    return training_count(spec, _root(spec) / "dataset.json")


def _root(spec: SiteSpec) -> Path:
    given = site_folder(spec.path, spec.name)
    return find(given) or given


@layout("msd", options=CASES, published=_counts)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the cases that dataset.json lists, of the parts that the site asks for.

    Raises:
        DataError: no dataset.json, a broken one, or a file it lists is missing.
    """
    root = _root(spec)
    about_path = root / "dataset.json"
    if not about_path.is_file():
        raise wrong_tree(spec, root, "msd", _EXPECTED)
    about = read_json(about_path)
    code = label_code(about, about_path)
    pairs = [pair for part in wanted_parts(spec) for pair in _listed(about, part, about_path)]
    cases = []
    for image, label in pairs:
        image_path = _file(root, image, about_path)
        name = stem_of(image_path.name)
        # Some copies come without labelsTr: then the images are unlabeled, as they lie there.
        has_labels = label is not None and (root / label).parent.is_dir()
        mask = _file(root, label, about_path) if label is not None and has_labels else None
        cases.append(CaseFile(name, name, image_path, mask, code=code))
    return cases


def _listed(about: dict[str, Any], part: str, path: Path) -> list[tuple[str, str | None]]:
    try:
        if part == "Tr":
            return [(str(row["image"]), str(row["label"])) for row in about["training"]]
        rows = about.get("test", [])
        return [(str(row["image"] if isinstance(row, dict) else row), None) for row in rows]
    except (KeyError, TypeError):
        raise DataError(
            f"{path} does not list training images and labels as the Decathlon's files do. Copy "
            "it again."
        ) from None


def _file(root: Path, listed: str, about_path: Path) -> Path:
    path = root / listed
    if not is_there(path):
        raise DataError(
            f"{about_path} lists {listed[:300]}, which does not exist. Copy it as well."
        )
    return path
