"""What the layouts with a `dataset.json` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedssl.data.layouts.cases import MaskCode
from fedssl.data.layouts.layout import choice
from fedssl.data.layouts.lists import read_json
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["CASES", "label_code", "training_count", "wanted_parts"]

CASES = {
    "cases": "training (default: imagesTr), test (imagesTs, to be used unlabeled) or all (both)"
}

_PARTS = {"training": ("Tr",), "test": ("Ts",), "all": ("Tr", "Ts")}


def wanted_parts(spec: SiteSpec) -> tuple[str, ...]:
    """Return the endings of the folders that a site asks for, `Tr` and `Ts`."""
    return _PARTS[choice(spec, "cases", list(_PARTS), "training")]


def training_count(spec: SiteSpec, about: Path) -> dict[str, int]:
    """Return how many images a dataset.json says there are, where a site asks for those only."""
    count = read_json(about).get("numTraining") if about.is_file() else None
    training_only = wanted_parts(spec) == ("Tr",)
    return {"images": count} if isinstance(count, int) and training_only else {}


def label_code(about: dict[str, Any], path: Path) -> MaskCode | None:
    """Return the code of masks whose values have gaps; None where they are class indices.

    Regions (lists of values) overlap, so their values stay as they are; the value of `ignore` is in
    no class.

    Args:
        about: content of a dataset.json.
        path: its path.

    Raises:
        DataError: it gives no labels, or broken ones.
    """
    labels = about.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{path} gives no labels. It needs a table of names and values.")
    if any(isinstance(value, list) for value in labels.values()):
        return None
    by_name = all(isinstance(value, int) for value in labels.values())
    try:
        pairs = labels.items() if by_name else ((name, key) for key, name in labels.items())
        values = sorted(int(value) for name, value in pairs if name != "ignore")
    except (TypeError, ValueError):
        raise DataError(
            f"{path} gives the labels {str(labels)[:300]}. Their values have to be integers."
        ) from None
    if values == list(range(len(values))):
        return None
    return MaskCode(tuple((value, value, index) for index, value in enumerate(values)))
