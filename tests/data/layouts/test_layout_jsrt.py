from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fedssl.errors import DataError

STRUCTURES = ("heart", "left clavicle", "left lung", "right clavicle", "right lung")
NAMES = ("JPCLN001", "JPCLN002", "JPCNN093")


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((1024, 1024), dtype=np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


MASKS = {
    "left lung": box(100, 600, 800, 900),
    "right lung": box(100, 100, 800, 400),
    "heart": box(500, 350, 800, 650),  # overlaps both lungs
    "left clavicle": box(90, 550, 120, 900),
    "right clavicle": box(90, 100, 120, 450),
}


def write_masks(folder, names, structures=STRUCTURES):
    for structure in structures:
        (folder / structure).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(MASKS[structure]).save(folder / structure / f"{name}.gif")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "All247images").mkdir()
    ramp = np.linspace(0, 4095, 2048).astype(">u2")
    raw = np.broadcast_to(ramp, (2048, 2048)).tobytes()
    for name in NAMES:
        (tmp_path / "All247images" / f"{name}.IMG").write_bytes(raw)
    masks = tmp_path / "scr" / "scratch"
    write_masks(masks / "fold1" / "masks", ("JPCLN001", "JPCNN093"))
    write_masks(masks / "fold2" / "masks", ("JPCLN002",))
    return tmp_path


def test_raw_pictures_are_inverted_and_masks_enlarged_to_them(tree, open_layout):
    source = open_layout("jsrt", tree)
    assert [(c.name, c.split) for c in source.cases] == [
        ("JPCLN001", "train"),
        ("JPCLN002", "test"),
        ("JPCNN093", "train"),
    ]
    case = source.read(0)
    assert case.image.shape == (1, 2048, 2048)
    assert (case.image[0, 0, 0], case.image[0, 0, -1]) == (4095, 0)
    lungs = (MASKS["left lung"] | MASKS["right lung"]) > 0
    np.testing.assert_array_equal(case.label, lungs.repeat(2, axis=0).repeat(2, axis=1))


def test_organs_are_painted_lungs_heart_clavicles(tree, open_layout):
    label = open_layout("jsrt", tree, classes=4, structures="organs").read(1).label[::2, ::2]
    expected = np.zeros((1024, 1024), dtype=np.uint8)
    for structure, index in (
        ("left lung", 1),
        ("right lung", 1),
        ("heart", 2),
        ("left clavicle", 3),
        ("right clavicle", 3),
    ):
        expected[MASKS[structure] > 0] = index
    np.testing.assert_array_equal(label, expected)
    assert set(np.unique(label)) == {0, 1, 2, 3}


def test_png_copies_of_half_the_size_and_masks_without_the_first_folder(tmp_path, open_layout):
    (tmp_path / "images").mkdir()
    picture = np.arange(512 * 512, dtype=np.uint32).reshape(512, 512).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "images" / "JPCLN001.png")
    write_masks(tmp_path / "scratch" / "fold1" / "masks", ("JPCLN001",))
    case = open_layout("jsrt", tmp_path, structures="heart").read(0)
    np.testing.assert_array_equal(case.image[0], picture)
    np.testing.assert_array_equal(case.label, MASKS["heart"][1::2, 1::2] > 0)


def test_radiographs_without_masks_are_unlabeled(tree, open_layout):
    (tree / "All247images" / "JPCNN010.IMG").write_bytes(bytes(2 * 2048 * 2048))
    source = open_layout("jsrt", tree)
    assert {c.name: c.has_label for c in source.cases}["JPCNN010"] is False


def test_a_radiograph_with_some_masks_missing_is_named(tree, open_layout):
    (tree / "scr/scratch/fold2/masks/right lung/JPCLN002.gif").unlink()
    with pytest.raises(DataError, match=r"JPCLN002\.IMG has masks of some.*none of: right lung"):
        open_layout("jsrt", tree)
    open_layout("jsrt", tree, structures="heart")
