"""With `crop = true` a network sees no dark surroundings, and masks still have the image's grid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
import torch
from trained_runs import FEDERATION, train, write_picture
from typer.testing import CliRunner

from clients.cli import app
from fedssl.data.cropping import foreground_box
from fedssl.data.intensity import zscore
from fedssl.data.readers import read_image, read_label
from fedssl.evaluate import predict_label
from fedssl.export.bundle import inference_config
from fedssl.export.bundle_steps import PrepareImaged, ReadImaged, ToLabeld
from fedssl.predict import Trained, load_trained, predict_folder

INSIDE = np.s_[5:45, 3:55]
"""Where the pictures of 40 x 52 lie on a black ground of 50 x 70."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return load_trained(train(tmp_path_factory.mktemp("cropped"), FEDERATION, crop=True))


def frame(path: Path) -> None:
    """Put a picture on black ground, away from its edges."""
    ground = np.zeros((50, 70, 3), np.uint8)
    ground[INSIDE] = np.maximum(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 30)
    sitk.WriteImage(sitk.GetImageFromArray(ground, isVector=True), str(path))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(3):
        write_picture(tmp_path / f"images/eye_{number}.png", number)
        frame(tmp_path / f"images/eye_{number}.png")
    return tmp_path / "images"


def expected(trained: Trained, image: Path) -> np.ndarray:
    """What the network makes of the picture alone, on the black ground's grid."""
    part = read_image(image).array[:, INSIDE[0], INSIDE[1]]
    found = predict_label(trained.model, torch.from_numpy(zscore(part)), trained.task, patch=None)
    mask = np.zeros((50, 70), np.uint8)
    mask[INSIDE] = found.numpy()
    assert 0 < np.count_nonzero(mask) < 40 * 52
    return mask


def test_a_predicted_mask_is_put_back_where_the_picture_was(
    trained: Trained, images: Path, tmp_path: Path
) -> None:
    assert foreground_box(read_image(images / "eye_0.png").array) == ((5, 45), (3, 55))
    predict_folder(trained, images, tmp_path / "masks")
    for image in sorted(images.iterdir()):
        mask = read_label(tmp_path / "masks" / image.name).array
        np.testing.assert_array_equal(mask, expected(trained, image))


def test_the_steps_of_a_bundle_give_the_same_mask(trained: Trained, images: Path) -> None:
    step = inference_config(trained)["preprocessing"]["transforms"][1]
    keys = {key: value for key, value in step.items() if key != "_target_"}
    assert keys["crop"] is True
    image = images / "eye_1.png"
    item = PrepareImaged(**keys)(ReadImaged("2d", 3)({"image": str(image)}))
    with torch.no_grad():
        item["pred"] = torch.sigmoid(trained.model(item["image"][None]).logits)[0]
    found = ToLabeld("nested")(item)["pred"]
    np.testing.assert_array_equal(found.numpy(), expected(trained, image))


def test_exported_pseudo_labels_cover_the_picture_alone(
    trained: Trained, hospital: Path, images: Path
) -> None:
    shutil.rmtree(hospital / "data/images")
    images.rename(hospital / "data/images")
    run = Path(trained.run.federation).parent / "run"
    out = hospital / "pseudo"
    order = ["pseudo", "export", hospital / "site.toml", run, "--out", out, "--json"]
    done = CliRunner().invoke(app, [*map(str, order)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["cases"]) == 3
    for folder in ("labels", "trust"):
        mask = read_label(out / folder / "eye_0.png").array
        assert mask.shape == (50, 70)
        assert np.count_nonzero(mask) == np.count_nonzero(mask[INSIDE]) > 0
