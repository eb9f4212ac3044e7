"""Masks for new images: on the image's grid, in its format, equal to what evaluation would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
import torch
from trained_runs import FEDERATION, train, write_picture

from fedssl.data.intensity import zscore
from fedssl.data.readers import read_image, read_label
from fedssl.errors import CheckpointError, DataError, TrainingError
from fedssl.evaluate import predict_label
from fedssl.predict import load_trained, predict_folder

VOLUMES = """
[task]
name = "blobs"
classes = ["background", "blob"]
mode = "slices"
[[site]]
name = "north"
role = "labeled"
path = "north"
"""


def test_a_mask_has_the_name_and_size_of_its_picture(
    run_folder: Path, hospital: Path, tmp_path: Path
) -> None:
    written = predict_folder(load_trained(run_folder), hospital / "data/images", tmp_path / "masks")
    names = sorted(p.name for p in (tmp_path / "masks").iterdir())
    assert names == ["eye_0.png", "eye_1.png", "eye_2.png", "eye_3.png", "eye_4.png"]
    for prediction in written:
        mask = read_label(prediction.mask).array
        assert mask.shape == (40, 52)
        assert set(np.unique(mask)) <= {0, 1, 2}
        counts = dict(
            zip(("background", "disc", "cup"), np.bincount(mask.flat, minlength=3), strict=True)
        )
        assert prediction.voxels == counts


def test_a_mask_is_what_evaluation_sees(run_folder: Path, hospital: Path, tmp_path: Path) -> None:
    trained = load_trained(run_folder)
    predict_folder(trained, hospital / "data/images", tmp_path / "masks")
    image = zscore(read_image(hospital / "data/images/eye_1.png").array)
    expected = predict_label(trained.model, torch.from_numpy(image), trained.task, patch=None)
    mask = read_label(tmp_path / "masks/eye_1.png").array
    assert np.array_equal(mask, expected.numpy())
    assert 0 < (mask > 0).mean() < 1


def test_resized_images_get_masks_of_their_own_size(tmp_path: Path, hospital: Path) -> None:
    run = train(tmp_path, FEDERATION, **{"image-size": "24"})
    predict_folder(load_trained(run), hospital / "data/images", tmp_path / "masks")
    assert read_label(tmp_path / "masks/eye_0.png").array.shape == (40, 52)


def test_nothing_is_overwritten(run_folder: Path, hospital: Path, tmp_path: Path) -> None:
    trained = load_trained(run_folder)
    images, out = hospital / "data/images", tmp_path / "masks"
    with pytest.raises(DataError, match="holds the images themselves; give another folder"):
        predict_folder(trained, images, images)
    assert read_image(images / "eye_0.png").array.shape == (3, 40, 52)
    out.mkdir()
    (out / "eye_1.png").write_text("somebody's own")
    told: list[int] = []
    written = predict_folder(trained, images, out, skipped=told.append)
    assert [p.image.name for p in written] == ["eye_0.png", "eye_2.png", "eye_3.png", "eye_4.jpg"]
    assert told == [1]
    assert (out / "eye_1.png").read_text() == "somebody's own"


def test_what_is_no_folder_of_images_or_no_device_is_named(
    run_folder: Path, hospital: Path, tmp_path: Path
) -> None:
    picture = hospital / "data/images/eye_0.png"
    with pytest.raises(DataError, match=r"eye_0\.png is no folder; give the folder"):
        predict_folder(load_trained(run_folder), picture, tmp_path / "masks")
    with pytest.raises(TrainingError, match="no device 'gpu'; give auto, cpu or cuda"):
        load_trained(run_folder, device="gpu")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on three small volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("images", "labels"):
        (folder / "north" / name).mkdir(parents=True)
    for number in range(6):
        image = volume(number)
        sitk.WriteImage(image, str(folder / f"north/images/{number}.nii.gz"))
        mask = sitk.Cast(image > 300, sitk.sitkUInt8)
        sitk.WriteImage(mask, str(folder / f"north/labels/{number}.nii.gz"))
    return train(folder, VOLUMES, **{"local-steps": 30, "lr": 0.01})


def volume(seed: int) -> sitk.Image:
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :20, :24]
    blob = (z - 2) ** 2 + (y - 6) ** 2 + (x - 15 + seed) ** 2 < 30
    image = sitk.GetImageFromArray(
        (rng.normal(100, 40, blob.shape) + 400 * blob).astype(np.float32)
    )
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-31.0, 12.5, 4.0))
    return image


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SLA"])
def test_a_volume_stored_in_any_orientation_gets_the_same_mask(
    volumes: Path, tmp_path: Path, orientation: str
) -> None:
    (tmp_path / "in").mkdir()
    plain = volume(50)
    turned = sitk.DICOMOrient(plain, orientation)
    sitk.WriteImage(plain, str(tmp_path / "in/plain.nii.gz"))
    sitk.WriteImage(turned, str(tmp_path / "in/turned.nrrd"))
    predict_folder(load_trained(volumes), tmp_path / "in", tmp_path / "out")
    first = sitk.ReadImage(str(tmp_path / "out/plain.nii.gz"))
    second = sitk.ReadImage(str(tmp_path / "out/turned.nrrd"))
    for ours, theirs in ((first, plain), (second, turned)):
        assert ours.GetSize() == theirs.GetSize()
        assert np.allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)
        assert np.allclose(ours.GetSpacing(), theirs.GetSpacing(), atol=1e-6)
        assert np.allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-6)
    back = sitk.DICOMOrient(second, "LPS")
    found = sitk.GetArrayFromImage(first)
    assert np.array_equal(found, sitk.GetArrayFromImage(back))
    assert 0 < found.mean() < 0.5


def test_a_folder_that_is_no_finished_run_is_named(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.toml"):
        load_trained(tmp_path)
    (tmp_path / "config.toml").write_bytes((run_folder / "config.toml").read_bytes())
    with pytest.raises(CheckpointError, match="does not tell the task"):
        load_trained(tmp_path)
    (tmp_path / "results.json").write_bytes((run_folder / "results.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_trained(tmp_path)


def test_a_picture_that_the_task_cannot_take_is_named(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sitk.WriteImage(volume(1), str(tmp_path / "in/volume.nii.gz"))
    with pytest.raises(DataError, match="is a volume of 6 slices"):
        predict_folder(load_trained(run_folder), tmp_path / "in", tmp_path / "out")
    write_picture(tmp_path / "in/volume.png", 0)
    with pytest.raises(DataError, match="name the same case"):
        predict_folder(load_trained(run_folder), tmp_path / "in", tmp_path / "out")
