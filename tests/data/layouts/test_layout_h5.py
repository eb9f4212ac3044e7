from __future__ import annotations

import h5py
import numpy as np
import pytest

from fedssl.errors import DataError


def test_any_folder_of_files_with_image_and_label_reads(tmp_path, open_layout):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file["image"] = rng.random((2, 4, 5))
            if name == "a":
                file["label"] = np.eye(5, dtype=np.int64)[None, :4].repeat(2, axis=0)
    (tmp_path / "notes.txt").write_text("?")
    source = open_layout("h5", tmp_path, mode="3d")
    assert [(c.name, c.has_label) for c in source.cases] == [("a", True), ("b", False)]
    assert source.read(0).label.sum() == 8


def test_a_file_without_image_is_named_and_hides_no_other(tmp_path, open_layout):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volume"] = np.zeros((2, 2))
    (tmp_path / "b.h5").write_bytes(b"")
    source = open_layout("h5", tmp_path)
    with pytest.raises(DataError, match=r"a\.h5 has no dataset 'image'; it holds volume"):
        source.read(0)
    with pytest.raises(DataError, match=r"b\.h5 is empty"):
        source.read(1)


def test_options_name_the_datasets(tmp_path, open_layout):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/t1"], file["mask"] = np.arange(6.0).reshape(2, 3), np.ones((2, 3), np.uint8)
    source = open_layout("h5", tmp_path, image="scan/t1", label="mask")
    case = source.read(0)
    assert (case.image.max(), case.label.sum()) == (5, 6)
