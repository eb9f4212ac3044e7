"""Images that belong to no site, and the masks written for them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedssl.data.geometry import Geometry
from fedssl.data.layouts import LAYOUTS
from fedssl.data.masks import write_onto
from fedssl.data.source import CaseRef, FolderSource
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Role, Task

__all__ = ["NewImages", "write_whole"]


class NewImages(FolderSource):
    """The images of a folder, listed as by the layout `folders`; masks are not looked for.

    An index.csv beside the folder is not read: it tells the subjects of a site's images, and here
    nothing depends on them.

    Args:
        folder: holds the images.
        task: what they have to fit.
        spacing: mm per axis of every file, in the order x, y(, z); None: what their headers say.

    Raises:
        DataError: no folder, no images, or a file that cannot be one.
    """

    def __init__(self, folder: Path, task: Task, spacing: Sequence[float] | None = None) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; give the folder that holds the images.")
        folder = folder.resolve()
        self.task = task
        self.spec = SiteSpec(
            name="predict",
            path=str(folder.parent),
            role=Role.UNLABELED,
            spacing="header" if spacing is None else tuple(spacing),
            # the folder of masks is one that cannot exist
            options={"images": folder.name, "labels": ".none"},
        )
        self.files = LAYOUTS["folders"].lists(self.spec)
        self.cases = tuple(CaseRef(file.name, file.subject, has_label=False) for file in self.files)
        self._values = None


def write_whole(target: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a mask [*S] onto a grid; a run that breaks off leaves all of it or nothing.

    Raises:
        DataError: the file cannot be written.
    """
    folder = target.parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        try:
            write_onto(Path(scratch) / target.name, label, geometry)
        except DataError as error:
            raise DataError(str(error).replace(scratch, str(folder))) from None
        # a header comes after the file of pixels that it points at
        for file in sorted(Path(scratch).iterdir(), key=lambda path: path.name == target.name):
            file.replace(folder / file.name)
