"""The steps of an exported MONAI bundle: read, prepare, predict, write.

`fedssl export` copies this module and what it imports of fedssl into the bundle's `scripts`, so a
bundle does exactly what fedssl does, and runs where fedssl is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from monai.transforms.transform import Transform
from torch import Tensor

from fedssl.data.cropping import Box, cut, foreground_box, lengths, paste, whole
from fedssl.data.fitting import (
    base_channels,
    fit_mode,
    prepare_image,
    resampled_size,
    with_channels,
)
from fedssl.data.formats import supported_suffixes
from fedssl.data.layouts.cases import files_by_stem
from fedssl.data.masks import mask_name, write_onto
from fedssl.data.readers import read_geometry, read_image
from fedssl.errors import DataError
from fedssl.inference import label_map, predict_case
from fedssl.types import Output, Task

__all__ = ["CaseInferer", "PrepareImaged", "ReadImaged", "ToLabeld", "WriteMaskd", "image_list"]


def image_list(folder: str) -> list[dict[str, str]]:
    """Return one item per image of a folder, sorted by name.

    A folder of a DICOM series in it is one image; hidden files, notes and the like are passed over.

    Raises:
        DataError: there is none, or a file that is neither.
    """
    files = files_by_stem(Path(folder))
    if not files:
        raise DataError(f"{folder} holds no image; supported are {supported_suffixes()}.")
    return [{"image": str(path)} for path in files.values()]


class ReadImaged(Transform):
    """Read `image`, a path, into [C, *S] raw intensities; `path` keeps the path.

    Args:
        mode: `2d`, `slices`, `2.5d` or `3d`.
        channels: that the network sees.
    """

    def __init__(self, mode: str, channels: int) -> None:
        self.task = Task("", (), mode, Output.EXCLUSIVE, channels)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item with its image read."""
        path = Path(data["image"])
        picture = read_image(path)
        array = fit_mode(picture.array, self.task, path)
        image = with_channels(array, base_channels(self.task), path)
        spacing = picture.spacing[1 - image.ndim :] if picture.has_physical_spacing else None
        return {**data, "image": image, "path": str(path), "spacing": spacing}


class PrepareImaged(Transform):
    """Crop, resize and normalise `image`; `shape` keeps its own size, `box` what was kept of it.

    Args:
        crop: whether the dark surroundings are cut off.
        image_size: new length of the last axes, or None to keep them.
        target_spacing: new spacing of the last axes in mm instead, or None.
        normalise: `zscore`, `robust`, `local`, `window` or `none`.
        intensity_window: what `window` keeps, or None.
    """

    def __init__(
        self,
        crop: bool,
        image_size: Sequence[int] | None,
        target_spacing: Sequence[float] | None,
        normalise: str,
        intensity_window: tuple[float, float] | None,
    ) -> None:
        self.crop, self.image_size, self.target_spacing = crop, image_size, target_spacing
        self.normalise, self.intensity_window = normalise, intensity_window

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item with its image prepared."""
        raw, size, shape = data["image"], self.image_size, data["image"].shape[1:]
        box = foreground_box(raw) if self.crop else whole(shape)
        raw = cut(raw, box)
        if self.target_spacing is not None:
            if data["spacing"] is None:
                raise DataError(f"{data['path']} has no spacing in mm, but the network needs it.")
            size = resampled_size(raw.shape[1:], data["spacing"], self.target_spacing)
        image = torch.from_numpy(prepare_image(raw, size, self.normalise, self.intensity_window))
        place = {"shape": torch.tensor(shape), "box": torch.tensor(box)}
        return {"path": data["path"], "image": image, **place}


class CaseInferer(Inferer):
    """Predict one whole case: padding, windows or slices, and their blending.

    Args:
        mode: `2d`, `slices`, `2.5d` or `3d`.
        patch: size of the sliding windows, or None for whole images.
        stride: sizes are padded to multiples of it.
        overlap: of neighbouring windows.
        batch_size: windows or slices at a time.
    """

    def __init__(
        self, mode: str, patch: Sequence[int] | None, stride: int, overlap: float, batch_size: int
    ) -> None:
        super().__init__()
        self.task = Task("", (), mode)
        self.patch, self.stride = patch, stride
        self.overlap, self.batch_size = overlap, batch_size

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return foreground probabilities [B, F, *S] of prepared images [B, C, *S]."""
        return torch.stack([self._case(image, network) for image in inputs])

    def _case(self, image: Tensor, network: Callable[..., Tensor]) -> Tensor:
        (prob,) = predict_case(
            lambda windows: [network(windows)],
            image,
            self.task,
            patch=self.patch,
            stride=self.stride,
            overlap=self.overlap,
            batch_size=self.batch_size,
        )
        return prob


class ToLabeld(Transform):
    """Turn `pred`, foreground probabilities, into class indices [*S] of the image's own size.

    Args:
        output: `exclusive` or `nested`.
    """

    def __init__(self, output: str) -> None:
        self.output = Output(output)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item with its label map."""
        box: Box = tuple((int(start), int(end)) for start, end in data["box"])
        label = label_map(torch.as_tensor(data["pred"]), self.output, lengths(box)).cpu().numpy()
        return {**data, "pred": torch.from_numpy(paste(label, box, data["shape"].tolist()))}


class WriteMaskd(Transform):
    """Write `pred` onto the grid of the image at `path`, under the image's name.

    Args:
        output_dir: made if it does not exist; nothing in it is overwritten.
    """

    def __init__(self, output_dir: str) -> None:
        self.folder = Path(output_dir)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item as it is."""
        image = Path(data["path"])
        target = self.folder / mask_name(image)
        if target.exists():
            raise DataError(f"{target} exists already and is not overwritten; give a new folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_onto(target, data["pred"].cpu().numpy(), read_geometry(image))
        return dict(data)
