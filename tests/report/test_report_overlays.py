"""Overlay pictures: which cases, which panels, which pixels."""

from __future__ import annotations

import json
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.image import imread

from fedssl.report.drawing import draw_evaluated, draw_pseudo
from fedssl.report.layers import (
    difference_layer,
    displayable,
    mask_layer,
    slices_to_show,
    trust_layer,
)
from fedssl.report.overlays import spread_over_ranks
from fedssl.report.png import encode_png
from fedssl.types import Task

TASK = Task("t", ("background", "disc", "cup"))
MARGIN, PANEL, GAP, DPI = 0.16, 2.6, 0.08, 100


def entries(folder: Path, site: str) -> list[dict[str, object]]:
    text = (folder / "sites" / site / "overlays" / "overlays.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def size(path: Path) -> tuple[int, int]:
    """Return (width, height) of a PNG file."""
    return struct.unpack(">II", path.read_bytes()[16:24])


def decoded(content: bytes) -> np.ndarray:
    return (imread(BytesIO(content), format="png") * 255).round().astype(np.uint8)


@pytest.mark.parametrize("site", ["north", "south"])
def test_evaluated_cases_go_from_the_worst_to_the_best(pictures: Path, site: str) -> None:
    lines = (pictures / "sites" / site / "cases.jsonl").read_text().splitlines()
    dice = {(c := json.loads(line))["name"]: sum(c["dice"].values()) / 2 for line in lines}
    shown = [e for e in entries(pictures, site) if e["kind"] == "test"]
    assert len(shown) == min(3, len(dice))
    assert [sum(e["values"].values()) / 2 for e in shown] == sorted(dice[e["case"]] for e in shown)
    assert dice[shown[0]["case"]] == min(dice.values())
    assert dice[shown[-1]["case"]] == max(dice.values())
    assert list(shown[0]["layers"]) == ["image", "truth", "prediction", "differences"]


def test_unlabeled_sites_show_pseudo_labels_from_the_least_trusted(pictures: Path) -> None:
    shown = [e for e in entries(pictures, "south") if e["kind"] == "pseudo"]
    trusted = [e["values"]["trusted"] for e in shown]
    assert len(shown) == 3
    assert trusted == sorted(trusted)
    assert list(shown[0]["layers"]) == ["image", "pseudo", "trust", "hidden"]
    assert not [e for e in entries(pictures, "north") if e["kind"] == "pseudo"]


def test_each_picture_has_one_panel_per_layer(pictures: Path, volumes: Path) -> None:
    for folder, sites in ((pictures, ("north", "south")), (volumes, ("east",))):
        for site in sites:
            for entry in entries(folder, site):
                panels = len(entry["layers"])
                width = round((2 * MARGIN + panels * PANEL + (panels - 1) * GAP) * DPI)
                home = folder / "sites" / site / "overlays"
                assert abs(size(home / entry["picture"])[0] - width) <= 1


def test_layers_hold_the_slices_below_each_other(volumes: Path) -> None:
    for entry in entries(volumes, "east"):
        home = volumes / "sites" / "east" / "overlays"
        width, height = size(home / entry["layers"]["image"])
        count = len(entry["slices"])
        assert 1 < count <= 16
        assert height % count == 0
        for name in ("truth", "prediction", "differences"):
            across, down = size(home / entry["layers"][name])
            assert down / count / across == height / count / width


def test_no_message_names_a_picture(pictures: Path) -> None:
    text = (pictures / "results.json").read_text() + (pictures / "rounds.jsonl").read_text()
    assert "image_0" not in text


def test_ranks_are_spread_evenly_from_the_smallest_value() -> None:
    values = {10: 0.5, 11: 0.1, 12: 0.9, 13: 0.3, 14: 0.7}
    assert spread_over_ranks(values, 3) == [(11, 1), (10, 3), (12, 5)]
    assert spread_over_ranks(values, 1) == [(11, 1)]
    assert spread_over_ranks(values, 9) == [(11, 1), (13, 2), (10, 3), (14, 4), (12, 5)]
    assert spread_over_ranks(values, 0) == []
    assert spread_over_ranks({}, 3) == []


@settings(deadline=None)
@given(
    arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 9)),
    st.integers(1, 20),
)
def test_the_fullest_slice_is_always_shown(voxels: np.ndarray, limit: int) -> None:
    chosen, start = slices_to_show(voxels, voxels, limit)
    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= limit
    assert chosen[0] >= 0
    assert chosen[-1] < len(voxels)
    if voxels.any():
        assert chosen[start] == int(np.argmax(voxels))


def test_slices_stay_near_the_foreground() -> None:
    voxels = np.zeros(50, int)
    voxels[20:25] = 1
    chosen, _ = slices_to_show(voxels, voxels, 16)
    assert chosen == [19, 20, 21, 22, 23, 24, 25]


def test_differences_tell_missed_extra_and_wrong_class_apart() -> None:
    truth, predicted = np.zeros((256, 256), int), np.zeros((256, 256), int)
    truth[0], predicted[1] = 1, 2
    truth[2], predicted[2] = 1, 2
    truth[3] = predicted[3] = 2
    layer = difference_layer(truth, predicted)
    assert layer.shape == (256, 256)
    assert [set(row) for row in layer[:5]] == [{1}, {2}, {3}, {0}, {0}]
    assert not layer[5:].any()


def test_masks_are_filled_and_outlined_in_class_order() -> None:
    disc, cup = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    disc[50:200, 50:200] = True
    cup[100:150, 100:150] = True
    layer = mask_layer({"disc": disc, "cup": cup})
    assert (layer[125, 60], layer[50, 60], layer[125, 125], layer[100, 125]) == (1, 2, 3, 4)
    assert not layer[~disc].any()


def test_small_masks_are_drawn_finer_with_the_border_in_place() -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    layer = mask_layer({"disc": mask})
    assert layer.shape == (256, 256)
    assert np.count_nonzero(layer) == pytest.approx(128 * 128, rel=0.03)
    assert layer[128, 64 + 1]
    assert not layer[128, 64 - 2]


def test_what_is_not_trusted_is_shaded_but_its_outline_stays() -> None:
    mask = np.zeros((256, 256), bool)
    mask[50:200, 50:200] = True
    trusted = np.ones((256, 256), bool)
    trusted[:, 128:] = False
    layer = trust_layer({"disc": mask}, trusted)
    assert (layer[10, 10], layer[125, 100], layer[125, 160], layer[10, 200]) == (0, 1, 3, 3)
    assert (layer[50, 100], layer[50, 160]) == (2, 2)


def test_a_volume_starts_where_the_truth_is_largest() -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 8, 8)).astype(np.float32)
    truth, predicted = np.zeros((6, 8, 8), int), np.zeros((6, 8, 8), int)
    truth[2, :2], truth[3, :4] = 1, 1
    predicted[4] = 1
    drawing = draw_evaluated(image, (2.0, 1.0, 1.0), Task("t", ("b", "f")), predicted, truth)
    assert drawing.slices[drawing.start] == 3
    assert drawing.depth == 6
    assert list(drawing.panels) == ["truth", "prediction", "differences"]
    assert list(drawing.panels["differences"].legend) == ["missed", "extra"]


def test_a_case_without_a_mask_shows_the_prediction_alone() -> None:
    image = np.zeros((3, 8, 8), np.float32)
    drawing = draw_evaluated(image, (1.0, 1.0), TASK, np.ones((8, 8), int), None)
    assert list(drawing.panels) == ["prediction"]
    assert drawing.image.shape == (1, 8, 8, 3)


def test_anisotropic_pixels_keep_their_shape() -> None:
    image = np.zeros((1, 8, 16), np.float32)
    drawing = draw_evaluated(image, (1.0, 0.5), TASK, np.zeros((8, 16), int), None)
    assert drawing.aspect == 1.0


def test_nested_pseudo_labels_are_drawn_from_the_outer_to_the_inner_class() -> None:
    pseudo = np.zeros((2, 256, 256), np.uint8)
    pseudo[0, 50:200, 50:200] = 1
    pseudo[1, 100:150, 100:150] = 1
    image = np.zeros((1, 256, 256), np.float32)
    drawing = draw_pseudo(image, (1.0, 1.0), TASK, pseudo, np.ones_like(pseudo), None)
    assert list(drawing.panels) == ["pseudo", "trust"]
    layer = drawing.panels["pseudo"].layer[0]
    assert (layer[60, 60], layer[125, 125]) == (1, 3)
    assert np.array_equal(layer, drawing.panels["trust"].layer[0])


def test_large_pictures_are_reduced_by_block_means() -> None:
    image = np.zeros((1, 4, 4), np.float32)
    image[0, :2, :2] = 1.0
    shown = displayable(image, rgb=False, largest=2)
    assert shown.shape == (1, 2, 2)
    assert shown[0, 0, 0] == 255
    assert shown[0, 1, 1] == 0


@settings(deadline=None)
@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
        elements=st.integers(0, 255),
    )
)
def test_png_files_hold_what_was_put_in(pixels: np.ndarray) -> None:
    assert np.array_equal(decoded(encode_png(pixels))[..., :3], pixels)
    assert np.array_equal(decoded(encode_png(pixels[..., 0])), pixels[..., 0])


def test_png_palettes_keep_colour_and_transparency() -> None:
    palette = [(0, 0, 0, 0), (255, 128, 0, 84), (1, 2, 3, 255)]
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    assert np.array_equal(decoded(encode_png(indices, palette)), np.array(palette)[indices])


@pytest.mark.parametrize(
    ("pixels", "palette"),
    [
        (np.zeros((2, 2), np.float32), ()),
        (np.zeros((2, 2, 4), np.uint8), ()),
        (np.zeros((0, 2), np.uint8), ()),
        (np.full((2, 2), 1, np.uint8), [(0, 0, 0, 0)]),
    ],
)
def test_what_no_png_can_hold_is_refused(pixels: np.ndarray, palette: list[object]) -> None:
    with pytest.raises(ValueError, match=r"cannot encode|do not fit"):
        encode_png(pixels, palette)
