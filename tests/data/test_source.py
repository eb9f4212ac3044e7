from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedssl.data.fitting import base_channels
from fedssl.data.source import FolderSource, open_source
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Task

TASK = Task("t", ("background", "tumor"))
VOLUMES = Task("t", ("background", "tumor"), mode="slices")
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
MASK = np.array([[0, 0, 1, 1]] * 3, dtype=np.uint8)
VOLUME = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.fixture
def folder(tmp_path, write_image):
    """Write one case and return its site."""

    def make(image, label=None, suffix="png", *, image_kw=None, label_kw=None, **table) -> SiteSpec:
        write_image(tmp_path / "north" / "images" / f"a.{suffix}", image, **(image_kw or {}))
        if label is not None:
            write_image(tmp_path / "north" / "labels" / f"a.{suffix}", label, **(label_kw or {}))
        role = "unlabeled" if label is None else "labeled"
        return SiteSpec(name="north", path=str(tmp_path / "north"), **{"role": role, **table})

    return make


def test_a_picture_is_read_with_raw_intensities_its_mask_and_pixel_units(folder):
    source = open_source(folder(GREY, MASK), TASK)
    assert [(c.name, c.subject, c.has_label) for c in source.cases] == [("a", "a", True)]
    case = source.read(0)
    np.testing.assert_array_equal(case.image, GREY[None])
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.label, MASK)
    assert case.label.dtype == np.uint8
    assert (case.spacing, case.distance_unit) == ((1.0, 1.0), "pixel")


def test_a_case_without_a_mask_has_none(folder):
    source = open_source(folder(GREY), TASK)
    assert not source.cases[0].has_label
    assert source.read(0).label is None


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("header", ((3.0, 2.0, 1.0), "mm")),
        ("unknown", ((1.0, 1.0, 1.0), "pixel")),
        ((0.5, 0.6, 0.7), ((0.7, 0.6, 0.5), "mm")),
    ],
)
def test_spacing_comes_from_the_header_or_the_site(folder, spacing, expected):
    spec = folder(VOLUME, suffix="nii.gz", image_kw={"spacing": (1, 2, 3)}, spacing=spacing)
    case = open_source(spec, VOLUMES).read(0)
    assert (case.spacing, case.distance_unit) == (pytest.approx(expected[0]), expected[1])


def test_an_explicit_spacing_follows_the_file_axes_through_reorientation(folder):
    sagittal = (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0)  # file x -> P, file y -> S, file z -> L
    spec = folder(
        VOLUME, suffix="nii.gz", image_kw={"direction": sagittal}, spacing=(0.5, 0.6, 0.7)
    )
    case = open_source(spec, VOLUMES).read(0)
    assert case.image.shape == (1, 3, 4, 2)  # S, P, L
    assert case.spacing == (0.6, 0.5, 0.7)


def test_a_spacing_for_a_file_that_has_none_follows_its_axes_too(folder, tmp_path):
    sagittal = (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0)
    spec = folder(VOLUME, suffix="mha", image_kw={"direction": sagittal}, spacing=(0.5, 0.6, 0.7))
    path = tmp_path / "north/images/a.mha"
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1\n", b""))
    assert open_source(spec, VOLUMES).read(0).spacing == (0.6, 0.5, 0.7)
    by_header = spec.model_copy(update={"spacing": "header"})
    assert open_source(by_header, VOLUMES).read(0).distance_unit == "pixel"


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, -2.0)])
def test_an_explicit_spacing_that_does_not_fit_is_refused(folder, spacing):
    spec = folder(VOLUME, suffix="nii.gz", spacing=spacing)
    with pytest.raises(DataError, match=r"'north': spacing = .*a\.nii\.gz.*3 positive lengths"):
        open_source(spec, VOLUMES).read(0)


def test_a_mask_of_another_shape_names_both_files_and_both_shapes(folder):
    source = open_source(folder(GREY, MASK[:2]), TASK)
    with pytest.raises(DataError) as caught:
        source.read(0)
    text = str(caught.value)
    assert str(Path("labels") / "a.png") in text
    assert str(Path("images") / "a.png") in text
    assert "(2, 4)" in text
    assert "(3, 4)" in text
    assert "Resample the mask" in text


def test_a_mask_value_without_a_class_names_value_file_and_classes(folder):
    source = open_source(folder(GREY, MASK * 7), TASK)
    with pytest.raises(
        DataError, match=r"a\.png holds the value 7, .*0 = background, 1 = tumor.*label-values"
    ):
        source.read(0)


def test_0_and_255_mean_0_and_1_in_a_two_class_task_only(folder):
    spec = folder(GREY, MASK * 255)
    np.testing.assert_array_equal(open_source(spec, TASK).read(0).label, MASK)
    three = Task("t", ("background", "disc", "cup"))
    with pytest.raises(DataError, match="holds the value 255"):
        open_source(spec, three).read(0)


def test_label_values_translate_the_files_values_class_by_class(folder):
    drawn = np.array([[255, 255, 128, 0]] * 3, dtype=np.uint8)
    three = Task("t", ("background", "disc", "cup"))
    spec = folder(GREY, drawn, options={"label-values": "255,128,0"})
    np.testing.assert_array_equal(open_source(spec, three).read(0).label, [[0, 0, 1, 2]] * 3)
    for broken in ("255,128", "255,128,x", "1,1,2"):
        wrong = spec.model_copy(update={"options": {"label-values": broken}})
        with pytest.raises(DataError, match=r"label-values = .* Give 3 different integers"):
            open_source(wrong, three)


def test_grey_pictures_are_repeated_for_a_colour_task(folder):
    case = open_source(folder(GREY), Task("t", ("b", "f"), channels=3)).read(0)
    np.testing.assert_array_equal(case.image, np.stack([GREY] * 3))


def test_colour_pictures_serve_a_grey_task_only_if_they_are_grey(folder):
    grey = np.stack([GREY] * 3, axis=-1)
    spec = folder(grey, image_kw={"vector": True})
    np.testing.assert_array_equal(open_source(spec, TASK).read(0).image, GREY[None])
    grey[0, 0, 0] = 200
    spec = folder(grey, image_kw={"vector": True})
    with pytest.raises(DataError, match=r"a\.png is a colour picture.*channels = 3"):
        open_source(spec, TASK).read(0)


def test_another_number_of_channels_is_refused(folder):
    four = np.stack([VOLUME] * 4).astype(np.float32)
    with pytest.raises(DataError, match=r"a\.nii\.gz has 4 channels, but the task has 1"):
        open_source(folder(four, suffix="nii.gz"), VOLUMES).read(0)


def test_2_5d_counts_a_third_of_its_channels_per_slice(folder):
    task = Task("t", ("b", "f"), mode="2.5d", channels=3)
    assert base_channels(task) == 1
    assert open_source(folder(VOLUME, suffix="nii.gz"), task).read(0).image.shape == (1, 2, 3, 4)


def test_pictures_and_volumes_are_refused_in_each_others_mode(folder):
    with pytest.raises(DataError, match=r"a\.png is a 2D picture, but mode = 'slices'"):
        open_source(folder(GREY), VOLUMES).read(0)
    Path(folder(GREY).path, "images", "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.nii\.gz is a volume of 2 slices, but mode = \"2d\""):
        open_source(folder(VOLUME, suffix="nii.gz"), TASK).read(0)


def test_a_volume_of_one_slice_is_a_picture_in_mode_2d(folder):
    spec = folder(VOLUME[:1], MASK[None], suffix="nii.gz", spacing=(0.3, 0.4))
    case = open_source(spec, TASK).read(0)
    np.testing.assert_array_equal(case.image, VOLUME[:1])
    np.testing.assert_array_equal(case.label, MASK)
    assert case.spacing == (0.4, 0.3)


LPI = (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)


def test_a_mask_stored_upside_down_in_the_same_place_is_turned(folder):
    label = (VOLUME > 11).astype(np.uint8)
    upside_down = {"direction": LPI, "origin": (0, 0, 1.0)}
    spec = folder(VOLUME, label[::-1], suffix="nii.gz", label_kw=upside_down)
    np.testing.assert_array_equal(open_source(spec, VOLUMES).read(0).label, label)


def test_a_mask_that_lost_its_geometry_is_refused(folder):
    image = {"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0), "origin": (40, 50, 60)}
    spec = folder(VOLUME, (VOLUME > 11).astype(np.uint8), suffix="nii.gz", image_kw=image)
    with pytest.raises(
        DataError, match=r"labels/a\.nii\.gz is stored in another orientation than its image .*mm"
    ):
        open_source(spec, VOLUMES).read(0)


def test_a_labeled_site_without_any_mask_is_refused(folder):
    with pytest.raises(
        DataError, match=r"'north' has the role 'labeled', but none of the 1 images"
    ):
        open_source(folder(GREY, role="labeled"), TASK)


def test_an_unknown_layout_lists_the_known_ones(folder):
    with pytest.raises(DataError, match=r"unknown layout 'folder'.*Did you mean 'folders'"):
        open_source(folder(GREY, layout="folder"), TASK)


def test_the_content_key_follows_contents_masks_and_settings_and_not_the_place(
    folder, tmp_path, write_image
):
    spec = folder(GREY, MASK)
    key = open_source(spec, TASK).content_key()
    assert open_source(spec, TASK).content_key() == key
    unknown = spec.model_copy(update={"spacing": "unknown"})
    assert open_source(unknown, TASK).content_key() != key
    (tmp_path / "north").rename(tmp_path / "moved")
    moved = spec.model_copy(update={"path": str(tmp_path / "moved")})
    assert open_source(moved, TASK).content_key() == key
    mask = tmp_path / "moved" / "labels" / "a.png"
    write_image(mask, 1 - MASK)
    assert open_source(moved, TASK).content_key() != key
    mask.unlink()
    unlabeled = moved.model_copy(update={"role": "unlabeled"})
    assert open_source(unlabeled, TASK).content_key() != key


def test_the_content_key_sees_the_pixels_behind_a_header(folder, tmp_path):
    spec = folder(VOLUME, suffix="mhd")
    key = open_source(spec, VOLUMES).content_key()
    raw = tmp_path / "north" / "images" / "a.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    assert open_source(spec, VOLUMES).content_key() != key


def test_a_case_knows_the_grid_of_its_file(folder):
    source = FolderSource(folder(VOLUME, suffix="nii.gz", image_kw={"origin": (1, 2, 3)}), VOLUMES)
    assert source.geometry(0).size == (4, 3, 2)
    assert source.geometry(0).origin == (1, 2, 3)


def test_a_wrong_mask_at_an_unlabeled_site_is_said_to_be_needless(folder):
    needed = open_source(folder(GREY, MASK * 7), TASK)
    with pytest.raises(DataError, match=r"holds the value 7") as error:
        needed.read(0)
    assert "moved elsewhere" not in str(error.value)
    unlabeled = open_source(folder(GREY, MASK * 7, role="unlabeled"), TASK)
    with pytest.raises(DataError, match=r"holds the value 7.*only serve evaluation: moved else"):
        unlabeled.read(0)
