from __future__ import annotations

import hashlib
import json
import os
import time

import pytest

from fedssl.data.fingerprints import digest_files
from fedssl.errors import DataError


def blake(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=20).hexdigest()


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """Two files, seen from a time when they are old enough to be remembered."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode())
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    return paths


def test_digests_are_those_of_the_contents(settled, tmp_path):
    assert digest_files(settled, tmp_path / "memo") == [blake(b"a"), blake(b"b")]
    assert digest_files(settled, tmp_path / "memo") == [blake(b"a"), blake(b"b")]


def test_an_unchanged_file_is_not_read_again(settled, tmp_path):
    digest_files(settled, tmp_path / "memo")
    (memo,) = (tmp_path / "memo").glob("*.json")
    rows = json.loads(memo.read_text())
    rows[0][1][1] = "remembered"
    memo.write_text(json.dumps(rows))
    assert digest_files(settled, tmp_path / "memo") == ["remembered", blake(b"b")]


def test_a_changed_file_is_read_again_even_if_its_size_and_time_are_kept(settled, tmp_path):
    digest_files(settled, tmp_path / "memo")
    stat = settled[0].stat()
    time.sleep(0.02)  # the change time moves on by a tick of the file system's clock
    settled[0].write_bytes(b"c")
    os.utime(settled[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_files(settled, tmp_path / "memo")[0] == blake(b"c")


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    digest_files([tmp_path / "a"], tmp_path / "memo")
    assert [json.loads(p.read_text()) for p in (tmp_path / "memo").glob("*.json")] in ([], [[]])


@pytest.mark.parametrize("content", ["", "{", "[[1, 2]]", '[["a", [["x"], "y"]]]'])
def test_a_damaged_memory_is_ignored(settled, tmp_path, content):
    digest_files(settled, tmp_path / "memo")
    (memo,) = (tmp_path / "memo").glob("*.json")
    memo.write_text(content)
    assert digest_files(settled, tmp_path / "memo") == [blake(b"a"), blake(b"b")]


def test_a_memory_that_cannot_be_written_does_no_harm(settled, tmp_path):
    (tmp_path / "memo").write_text("a file where the folder should be")
    assert digest_files(settled, tmp_path / "memo") == [blake(b"a"), blake(b"b")]


def test_a_missing_file_is_named(settled, tmp_path):
    with pytest.raises(DataError, match=r"gone cannot be opened: No such file"):
        digest_files([*settled, tmp_path / "gone"], tmp_path / "memo")
