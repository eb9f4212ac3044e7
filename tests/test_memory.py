"""A site's memory: a repeated stage finds what the first attempt found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedssl.memory import FileMemory, write_atomically
from fedssl.types import Arrays


def value(number: float) -> Arrays:
    return {"x": torch.tensor([number])}


def loaded(memory: FileMemory, name: str = "bank") -> float | None:
    arrays = memory.load(name)
    return None if arrays is None else arrays["x"].item()


def test_a_stage_sees_what_was_saved_before_it_and_not_its_own(tmp_path: Path):
    first = FileMemory(tmp_path, 0, 0)
    assert loaded(first) is None
    first.save("bank", value(1))
    assert loaded(first) is None
    assert loaded(FileMemory(tmp_path, 0, 1)) == 1


def test_a_repeated_stage_starts_where_it_started_the_first_time(tmp_path: Path):
    FileMemory(tmp_path, 0, 0).save("bank", value(1))
    FileMemory(tmp_path, 1, 1).save("bank", value(2))
    FileMemory(tmp_path, 1, 2).save("bank", value(3))  # the second stage of round 1
    again = FileMemory(tmp_path, 1, 1)
    assert loaded(again) == 1
    again.save("bank", value(20))
    assert loaded(FileMemory(tmp_path, 1, 2)) == 20


def test_only_the_newest_of_the_earlier_rounds_is_kept(tmp_path: Path):
    for round_ in range(6):
        FileMemory(tmp_path, round_, round_).save("bank", value(round_))
        assert len(list(tmp_path.iterdir())) == min(2, round_ + 1)
    assert loaded(FileMemory(tmp_path, 5, 5)) == 4
    assert loaded(FileMemory(tmp_path, 6, 6)) == 5


def test_all_stages_of_the_current_round_are_kept(tmp_path: Path):
    for step in range(3):
        FileMemory(tmp_path, 0, step).save("bank", value(step))
    assert [loaded(FileMemory(tmp_path, 0, step)) for step in range(4)] == [None, 0, 1, 2]


def test_what_is_not_finite_is_not_kept_and_does_not_replace_what_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    FileMemory(tmp_path, 0, 0).save("bank", value(1))
    for number in (float("nan"), float("inf")):
        FileMemory(tmp_path, 1, 1).save("bank", value(number))
    assert loaded(FileMemory(tmp_path, 2, 2)) == 1
    assert "'bank' of round 2 is not finite" in caplog.text


def test_something_that_is_saved_rarely_stays_until_it_is_replaced(tmp_path: Path):
    FileMemory(tmp_path, 0, 0).save("bank", value(1))
    for round_ in range(1, 5):
        FileMemory(tmp_path, round_, round_).save("other", value(round_))
    assert loaded(FileMemory(tmp_path, 9, 9)) == 1


def test_names_that_begin_alike_are_kept_apart(tmp_path: Path):
    for name, number in (("bank", 1), ("bank.r2", 2), ("bank-train", 3)):
        FileMemory(tmp_path, 0, 0).save(name, value(number))
    later = FileMemory(tmp_path, 1, 1)
    assert [loaded(later, n) for n in ("bank", "bank.r2", "bank-train")] == [1, 2, 3]


def test_dtypes_and_shapes_survive_and_views_are_saved_as_they_look(tmp_path: Path):
    arrays = {
        "half": torch.ones(2, 0, dtype=torch.float16),
        "flag": torch.tensor([True, False]),
        "count": torch.tensor(7),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
    FileMemory(tmp_path, 0, 0).save("bank", arrays)
    found = FileMemory(tmp_path, 0, 1).load("bank")
    assert found is not None
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert torch.equal(found[name], array)


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
