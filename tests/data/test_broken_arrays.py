"""Broken files of the array formats and of DICOM end in a `DataError` that names them."""

from __future__ import annotations

from pathlib import Path

import broken_arrays as arrays
import broken_dicom as dicom
import broken_hdf5 as hdf5
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import read_or_refused

from fedssl.data.readers import read_image, read_label
from fedssl.errors import DataError

pytestmark = pytest.mark.usefixtures("bounded_memory")


BROKEN = {
    **arrays.npys(),
    **hdf5.hdf5s(),
    **hdf5.v73s(),
    **arrays.mats(),
    **arrays.gifs(),
    **arrays.raws(),
    **arrays.not_finite_arrays(),
    **arrays.array_strangers(),
    **dicom.files(),
    **dicom.folders(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path, capfd, what):
    path = BROKEN[what](tmp_path)
    for read in (read_image, read_label):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1200
    assert capfd.readouterr() == ("", "")


TRUNCATED = arrays.array_truncations() | dicom.truncations()
VALID = arrays.ARRAYS | dicom.VALID


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", TRUNCATED)
def test_a_truncated_file_is_refused_or_complete(tmp_path, capfd, what):
    path = TRUNCATED[what](tmp_path)
    whole = tmp_path / f"whole.{path.name}"
    whole.write_bytes(VALID[path.name.removeprefix("x.")])
    picture = read_or_refused(read_image, path)
    if picture is not None:
        np.testing.assert_array_equal(picture.array, read_image(whole).array)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", VALID)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_bytes_end_in_an_image_or_in_a_data_error(tmp_path, name, data):
    content = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(1, 6))):
        # headers decide most: half of the mutations go there
        last = data.draw(st.sampled_from([min(360, len(content)) - 1, len(content) - 1]))
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    path = Path(tmp_path / f"x.{name}")
    path.write_bytes(bytes(content))
    for read in (read_image, read_label):
        found = read_or_refused(read, path)
        if found is not None:
            assert found.array.size < 2**26
            assert np.isfinite(found.array).all()


def test_nothing_outside_an_hdf5_file_is_opened(tmp_path, monkeypatch):
    """The targets exist here, so that only the refusal keeps them closed."""
    import h5py

    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["image"] = file["label"] = np.ones((3, 4))
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["image"] = file["label"] = h5py.ExternalLink(str(secret), "/image")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=(3, 4), dtype="f8")
        layout[...] = h5py.VirtualSource(str(secret), "image", shape=(3, 4))
        file.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        raw = [(str(secret), 0, 12)]
        file.create_dataset("image", shape=(3, 4), dtype="u1", external=raw)
    for name, reason in (("linked", "another file"), ("virtual", "other"), ("outside", "other")):
        with pytest.raises(DataError, match=rf"{name}\.h5.*{reason}"):
            read_image(tmp_path / f"{name}.h5")


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(BROKEN) + len(TRUNCATED) >= 200
