"""The check of a bundle sees wrong steps, whatever the network answers; the list of its images."""

from __future__ import annotations

import json
import locale
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
import torch
from networks import untrained

from fedssl.data.cropping import foreground_box, lengths
from fedssl.data.intensity import foreground
from fedssl.data.readers import read_image
from fedssl.errors import DataError, ExportError
from fedssl.export.bundle import write_bundle
from fedssl.export.bundle_steps import ReadImaged, image_list
from fedssl.export.check import check_bundle, check_image
from fedssl.predict import Trained
from fedssl.types import Task

VOLUME = Task("knees", ("background", "bone"), mode="3d")
KEYS = {"crop": True, "patch-size": "8,8,8", "target-spacing": "2,1,1"}


@pytest.fixture(scope="module")
def blind() -> Trained:
    """A network that answers background everywhere."""
    trained = untrained(VOLUME, **KEYS)
    with torch.no_grad():
        trained.model.get_parameter("head.bias").copy_(torch.tensor([30.0, -30.0]))
    return trained


@pytest.fixture(scope="module")
def bundle(blind: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blind") / "bundle"
    write_bundle(blind, folder, {})
    return folder


def test_a_blind_networks_bundle_is_right_and_the_check_says_how_little_its_mask_tells(
    blind: Trained, bundle: Path
) -> None:
    found = check_bundle(blind, bundle)
    assert (found.pixels, found.foreground) == (0.0, 0.0)
    assert max(found.prepared, found.probability) <= 1e-4


@pytest.mark.parametrize(("key", "value"), [("crop", False), ("normalise", "robust")])
def test_wrong_preparation_is_refused_even_where_all_masks_are_empty(
    key: str, value: Any, blind: Trained, bundle: Path
) -> None:
    path = bundle / "configs/inference.json"
    right = path.read_text()
    config = json.loads(right)
    config["preprocessing"]["transforms"][1][key] = value
    path.write_text(json.dumps(config))
    try:
        with pytest.raises(ExportError, match="the prepared image differs"):
            check_bundle(blind, bundle)
    finally:
        path.write_text(right)


TASKS: dict[str, tuple[Task, dict[str, Any]]] = {
    "volume": (VOLUME, KEYS),
    "slices": (Task("lungs", ("background", "lung"), mode="slices"), {"target-spacing": "3,3"}),
    "2.5d": (Task("lungs", ("background", "lung"), mode="2.5d", channels=3), {}),
    "colour": (Task("eyes", ("background", "disc"), channels=3), {"patch-size": "16,16"}),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_image_of_the_check_is_dark_around_turned_and_unevenly_spaced(
    name: str, tmp_path: Path
) -> None:
    trained = untrained(TASKS[name][0], **TASKS[name][1])
    sitk.WriteImage(check_image(trained), str(tmp_path / "image.mha"))
    picture = read_image(tmp_path / "image.mha")
    shape = picture.array.shape[1:]
    assert len(set(picture.spacing)) == len(shape)
    assert any(picture.geometry.flips) == (len(shape) == 3)
    assert 0.05 < 1 - foreground(picture.array).mean() < 0.95
    body = lengths(foreground_box(picture.array))
    assert all(inner < whole for inner, whole in zip(body, shape, strict=True))
    dims = trained.task.spatial_dims
    assert all(side % trained.model.stride for side in shape[-dims:])


def test_intensities_of_the_image_lie_in_the_runs_window() -> None:
    trained = untrained(VOLUME, **{"normalise": "window", "intensity-window": "1000,2000"})
    array = sitk.GetArrayFromImage(check_image(trained))
    assert np.percentile(array, [1, 99]) == pytest.approx([1000, 1850], abs=60)


def write_dicom(folder: Path) -> None:
    """Write a series of three slices."""
    folder.mkdir(parents=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(3):
        plane = sitk.GetImageFromArray(np.full((1, 6, 5), 10 * z, np.int16))
        tags = {"0008|0060": "MR", "0020|000d": "1.2.3", "0020|000e": "1.2.4"}
        tags |= {"0020|0032": f"0\\0\\{2 * z}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z}.dcm"))
        writer.Execute(plane)
    locale.setlocale(locale.LC_ALL, before)  # GDCM leaves the process in another


def test_a_dicom_folder_is_one_image_and_hidden_files_are_none(tmp_path: Path) -> None:
    write_dicom(tmp_path / "patient")
    sitk.WriteImage(sitk.Image(5, 6, 3, sitk.sitkUInt8), str(tmp_path / "other.mha"))
    for name in ("._other.mha", "._patient", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    items = image_list(str(tmp_path))
    assert [Path(item["image"]).name for item in items] == ["other.mha", "patient"]
    image = ReadImaged("3d", 1)(items[1])["image"]
    assert image.shape == (1, 3, 6, 5)
    assert image[0, :, 0, 0].tolist() == [0, 10, 20]


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        image_list(str(tmp_path))
