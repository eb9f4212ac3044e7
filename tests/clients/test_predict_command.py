"""`predict` on folders as they are: broken files, files beside them, missing spacings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from trained_runs import FEDERATION, train, write_picture, write_site
from typer.testing import CliRunner, Result

import fedssl.predict
from clients.cli import app
from fedssl.data.new_images import write_whole
from fedssl.data.readers import read_geometry, read_label
from fedssl.errors import DataError
from fedssl.predict import load_trained, predict_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pictures a, b and c; b is broken."""
    folder = tmp_path / "set/images"
    folder.mkdir(parents=True)
    for name in "ac":
        write_picture(folder / f"{name}.png", ord(name) % 7)
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_broken_image_costs_its_own_mask_only(
    run_folder: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = call(run_folder, images, out)
    assert first.exit_code == 1
    assert names(out) == ["a.png", "c.png"]
    assert "1 of 3 images got no mask" in first.output
    assert "b.png: " in first.output
    again = json.loads(call(run_folder, images, out, "--json").output)
    assert not again["ok"]
    assert "b.png is damaged" in again["error"]

    write_picture(images / "b.png", 3)
    before = (out / "a.png").stat().st_mtime_ns
    mended = call(run_folder, images, out)
    assert mended.exit_code == 0
    assert "2 images are skipped" in mended.output
    assert "3 masks in" in mended.output
    assert names(out) == ["a.png", "b.png", "c.png"]
    assert (out / "a.png").stat().st_mtime_ns == before
    done = json.loads(call(run_folder, images, out, "--json").output)
    assert (done["ok"], done["masks"], done["skipped"]) == (True, [], 3)


def test_an_image_that_is_too_small_costs_its_own_mask_only(
    run_folder: Path, images: Path, tmp_path: Path
) -> None:
    sitk.WriteImage(sitk.Image(3, 3, sitk.sitkUInt8), images / "b.png")
    done = call(run_folder, images, tmp_path / "out", "--spacing", "1,1")
    assert done.exit_code == 1, done.output
    assert "1 of 3 images got no mask" in done.output
    assert names(tmp_path / "out") == ["a.png", "c.png"]


def test_all_broken_images_are_named_and_the_first_reasons_told(
    run_folder: Path, images: Path, tmp_path: Path
) -> None:
    for number in range(7):
        (images / f"x{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="8 of 10 images got no mask") as caught:
        predict_folder(load_trained(run_folder), images, tmp_path / "out")
    text = str(caught.value)
    assert all(f"x{number}.png" in text for number in range(7))
    assert text.count("is empty (0 bytes)") == 4
    assert names(tmp_path / "out") == ["a.png", "c.png"]


@pytest.mark.parametrize(
    "index", ["site,id,subject\nnorth,001,p1\n", "id,subject\n001,p1\n", "rank,case\n1,a\n"]
)
def test_an_index_beside_the_folder_is_not_asked(
    run_folder: Path, images: Path, tmp_path: Path, index: str
) -> None:
    (images / "b.png").unlink()
    for place in (images, images.parent, images.parent.parent):
        (place / "index.csv").write_text(index)
    written = predict_folder(load_trained(run_folder), images, tmp_path / "out")
    assert [p.image.name for p in written] == ["a.png", "c.png"]


def test_a_mask_that_breaks_off_is_not_there(
    run_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next call would take half a mask for a whole one."""

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise DataError(f"{path} cannot be written in full")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("fedssl.data.new_images.write_onto", full)
        with pytest.raises(DataError, match=f"^{out / 'a.png'} cannot be written"):
            predict_folder(load_trained(run_folder), images, out)
    assert names(out) == []


def test_a_header_finds_its_pixels(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), dtype=np.int16))
    sitk.WriteImage(image, str(tmp_path / "image.mhd"))
    label = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out/image.mhd"
    write_whole(target, label, read_geometry(tmp_path / "image.mhd"))
    assert len(names(tmp_path / "out")) == 2
    np.testing.assert_array_equal(read_label(target).array, label)


def test_pictures_get_the_spacing_that_resampling_needs(tmp_path: Path, images: Path) -> None:
    (images / "b.png").unlink()
    write_site(tmp_path / "north", 10)
    federation = FEDERATION + "spacing = [0.5, 0.5]\n"
    run = train(tmp_path, federation, **{"target-spacing": "1.0"})
    out = tmp_path / "out"
    refused = call(run, images, out)
    assert refused.exit_code == 1
    assert "a.png has no spacing in mm" in refused.output
    assert "--spacing x,y,z" in refused.output
    assert "2 of 2 images" in refused.output
    made = call(run, images, out, "--spacing", "0.5,0.5")
    assert made.exit_code == 0, made.output
    assert read_label(out / "a.png").array.shape == (40, 52)


@pytest.mark.parametrize("text", ["1", "0.5;0.5", "0,1", "-1,1,1", "nan,1", "1,2,3,4", "inf,1"])
def test_a_spacing_that_is_none_is_refused(
    run_folder: Path, images: Path, tmp_path: Path, text: str
) -> None:
    refused = call(run_folder, images, tmp_path / "out", f"--spacing={text}")
    assert refused.exit_code == 1
    assert f"--spacing {text!r} are no lengths" in refused.output


def test_the_first_axis_given_is_the_files_first(
    run_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    label = fedssl.predict._label

    def spied(trained, case, path):
        seen.append((case.spacing, case.distance_unit))
        return label(trained, case, path)

    (images / "b.png").unlink()
    monkeypatch.setattr(fedssl.predict, "_label", spied)
    predict_folder(load_trained(run_folder), images, tmp_path / "out", spacing=(0.25, 3.0))
    assert seen == [((3.0, 0.25), "mm")] * 2
