"""`nnunet`: a raw data set of nnU-Net, `dataset.json`, `imagesTr`, `labelsTr` and `imagesTs`.

Images are `<case>_0000.nii.gz`, `_0001` and so on, one file per channel (one for all channels of a
colour picture), masks `<case>.nii.gz`. Both versions of `dataset.json` are read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fedssl.data.layouts.cases import CaseFile, MaskCode, files_by_stem, site_folder
from fedssl.data.layouts.decathlon import CASES, label_code, training_count, wanted_parts
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.lists import read_json
from fedssl.data.layouts.tree import find, masks_of, optional_files, wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_EXPECTED = "dataset.json, imagesTr/<case>_0000.nii.gz and labelsTr/<case>.nii.gz"


def _counts(spec: SiteSpec) -> dict[str, int]:
    return training_count(spec, Path(spec.path) / "dataset.json")


@layout("nnunet", options=CASES, published=_counts)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the cases of the parts that the site asks for.

    Raises:
        DataError: no dataset.json or images, a channel is missing, or a mask has no image.
    """
    root = site_folder(spec.path, spec.name)
    about_path = root / "dataset.json"
    if not about_path.is_file():
        raise wrong_tree(spec, root, "nnunet", _EXPECTED)
    about = read_json(about_path)
    code = label_code(about, about_path)
    channels = _channel_count(about, about_path)
    cases: list[CaseFile] = []
    for suffix in wanted_parts(spec):
        folder, labels = find(root, f"images{suffix}"), find(root, f"labels{suffix}")
        if folder is not None:
            split = "test" if suffix == "Ts" and labels is not None and cases else ""
            cases += _cases(folder, labels, channels, code, split)
    if not cases:
        raise wrong_tree(spec, root, "nnunet", _EXPECTED)
    return cases


def _channel_count(about: dict[str, Any], path: Path) -> int:
    names = about.get("channel_names", about.get("modality"))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path} names no channels; it needs channel_names (or modality).")
    return len(names)


def _cases(
    folder: Path, label_folder: Path | None, channels: int, code: MaskCode | None, split: str
) -> list[CaseFile]:
    found: dict[str, dict[int, Path]] = {}
    for stem, path in files_by_stem(folder).items():
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match is None:
            raise DataError(
                f"{path} has no channel in its name; nnU-Net's images end in _0000, _0001, ..."
            )
        found.setdefault(match[1], {})[int(match[2])] = path
    alone = all(sorted(files) == [0] for files in found.values())
    for case, files in found.items():
        if sorted(files) != ([0] if alone else list(range(channels))):
            raise DataError(
                f"{folder} holds the channels {sorted(files)} of {case!r}, but dataset.json names "
                f"{channels}; needed are {list(range(channels))}."
            )
    firsts = {case: files[0] for case, files in found.items()}
    labels = masks_of(firsts, optional_files(label_folder))
    return [
        CaseFile(
            case,
            case,
            files[0],
            labels.get(case),
            more_images=tuple(path for channel, path in sorted(files.items()) if channel),
            code=code,
            split=split,
        )
        for case, files in found.items()
    ]
