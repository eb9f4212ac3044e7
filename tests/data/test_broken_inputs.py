"""Broken inputs end in a `DataError` that names the file, or in a correct read."""

from __future__ import annotations

import os
from pathlib import Path

import broken_corpus as corpus
import broken_values as values
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import read_or_refused

from fedssl.data.readers import read_image, read_label
from fedssl.data.source import open_source
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Task

pytestmark = pytest.mark.usefixtures("bounded_memory")


def refused(read, path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


BROKEN = {
    **corpus.strangers(),
    **corpus.claims(),
    **values.not_finite(),
    **values.detached(),
    **values.places(),
    **values.pages(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path, capfd, what):
    path = BROKEN[what](tmp_path)
    refused(read_image, path)
    refused(read_label, path)
    assert capfd.readouterr() == ("", "")


TRUNCATED = corpus.truncations()


@pytest.mark.parametrize("what", TRUNCATED)
def test_a_truncated_file_is_refused_or_complete(tmp_path, capfd, what):
    """What is lost may be a comment behind the pixels; then the pixels have to be right."""
    path = TRUNCATED[what](tmp_path)
    whole = tmp_path / f"whole.{path.name}"
    whole.write_bytes(corpus.VALID[path.name.removeprefix("x.")])
    picture = read_or_refused(read_image, path)
    if picture is not None:
        np.testing.assert_array_equal(picture.array, read_image(whole).array)
    assert capfd.readouterr() == ("", "")


GRIDS = values.geometries()


@pytest.mark.parametrize("what", GRIDS)
def test_a_strange_grid_is_refused_or_read_with_a_usable_one(tmp_path, capfd, what):
    path = GRIDS[what](tmp_path)
    picture = read_or_refused(read_image, path)
    if picture is not None:
        assert sorted(picture.array.ravel()) == sorted(corpus.VOLUME.ravel())
        assert all(0 < s < 1e6 for s in picture.spacing)
        assert np.isfinite(picture.geometry.canonical_origin).all()
    assert capfd.readouterr() == ("", "")


MASKS = values.masks()


@pytest.mark.parametrize("what", MASKS)
def test_an_image_that_is_no_mask_is_refused_with_what_to_do(tmp_path, what):
    text = str(refused(read_label, MASKS[what](tmp_path)))
    assert any(word in text for word in ("Save it", "Store", "replace"))


ODD = values.valid()


@pytest.mark.parametrize("what", ODD)
def test_an_unusual_file_that_is_right_is_read(tmp_path, capfd, what):
    build, expected = ODD[what]
    np.testing.assert_array_equal(read_image(build(tmp_path)).array, expected.astype(np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = corpus.saved("x.png", corpus.VALID["png"])(tmp_path)
    path.chmod(0)
    assert "Permission denied" in str(refused(read_image, path))


def test_a_name_that_is_not_utf8_is_read_or_refused(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.nii.gz"
    path = Path(os.fsdecode(raw))
    try:
        path.write_bytes(corpus.VALID["nii.gz"])
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    picture = read_or_refused(read_image, path, ".nii.gz")
    assert picture is None or picture.array.shape == (1, 5, 6, 7)


TASK = Task("t", ("background", "organ"))
SITES = {
    "a mask of another shape": ({"images/a.png": "png", "labels/a.png": "deep-tall.png"}, "a.png"),
    "a mask turned by 90 degrees": ({"images/a.png": "png", "labels/a.png": "turned.png"}, "a.png"),
    "a mask with values of no class": ({"images/a.png": "png", "labels/a.png": "png"}, "a.png"),
    "a volume among pictures": ({"images/a.nii.gz": "nii.gz"}, "a.nii.gz"),
    "another number of channels": ({"images/a.nii.gz": "vector.nii.gz"}, "a.nii.gz"),
    "colours in a grey task": ({"images/a.png": "colour.png"}, "a.png"),
    "colours as jpeg in a grey task": ({"images/a.jpg": "colour.jpg"}, "a.jpg"),
    "a clash of cases": ({"images/a.png": "png", "images/A.png": "png"}, "A.png"),
    "a clash of suffixes": ({"images/a.png": "png", "images/a.tif": "tif"}, "a.tif"),
    "a mask without an image": ({"images/a.png": "png", "labels/b.png": "png"}, "b.png"),
    "two masks of one image": (
        {"images/a.png": "png", "labels/a.png": "png", "labels/a_mask.png": "png"},
        "a_mask.png",
    ),
    "an empty folder": ({"images/.keep": "png"}, "images"),
    "no images folder": ({"labels/a.png": "png"}, "images"),
    "an unknown type": ({"images/a.dcm": "png"}, "a.dcm"),
}


@pytest.mark.parametrize("what", SITES)
def test_a_broken_site_is_refused_by_name(tmp_path, what):
    files, named = SITES[what]
    contents = {
        **corpus.VALID,
        "deep-tall.png": corpus.encoded("png", corpus.PICTURE[:-1] % 2),
        "turned.png": corpus.encoded("png", np.ascontiguousarray(corpus.PICTURE.T % 2)),
    }
    for place, content in files.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(contents[content])
    spec = SiteSpec(name="north", path=str(tmp_path), role="unlabeled")
    with pytest.raises(DataError) as caught:
        open_source(spec, TASK).read(0)
    assert named in str(caught.value)
    assert str(tmp_path) in str(caught.value)


MUTANTS = (
    "nii",
    "float.nii",
    "nii.gz",
    "mha",
    "packed.mha",
    "nrrd",
    "packed.nrrd",
    "png",
    "jpg",
    "colour.jpg",
    "tif",
    "packed.tif",
    "bmp",
)


@pytest.mark.parametrize("name", MUTANTS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_bytes_end_in_an_image_or_in_a_data_error(tmp_path, name, data):
    content = bytearray(corpus.VALID[name])
    for _ in range(data.draw(st.integers(1, 6))):
        # headers decide most: half of the mutations go there
        last = data.draw(st.sampled_from([min(360, len(content)) - 1, len(content) - 1]))
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x.{name}"
    path.write_bytes(bytes(content))
    for read in (read_image, read_label):
        found = read_or_refused(read, path)
        if found is not None:
            assert found.array.size < 2**26
            assert np.isfinite(found.array).all()


def test_the_corpus_is_as_large_as_it_should_be():
    assert sum(map(len, (BROKEN, TRUNCATED, GRIDS, MASKS, ODD, SITES))) >= 200
