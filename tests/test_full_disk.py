"""A full disk, played by a limit on the size of files: it is told, and leaves nothing half-done."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from clients.cli import app as client
from fedssl.cli import app
from fedssl.data.readers import read_geometry, write_label
from fedssl.deploy.private_files import write_private
from fedssl.errors import DataError, TrainingError, told
from fedssl.memory import FileMemory, write_atomically

NOISE = np.random.default_rng(0).integers(0, 9, (40, 48)).astype(np.uint8)


@contextmanager
def full(size: int = 300) -> Iterator[None]:
    """Let no file grow beyond a few bytes; Linux then says so in the words of a limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "nii", "nii.gz", "nrrd", "mha"])
def test_a_mask_that_is_cut_off_is_no_mask(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(NOISE).save(tmp_path / "image.png")
    grid = read_geometry(tmp_path / "image.png")
    path = tmp_path / f"mask.{suffix}"
    with full(), pytest.raises(DataError, match="cannot be written in full"):
        write_label(path, NOISE, grid)
    assert not path.exists()
    write_label(path, NOISE, grid)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", b"old")
    with full(), pytest.raises(OSError, match="File too large") as caught:
        write_atomically(tmp_path / "f", bytes(1000))
    assert caught.value.filename == str(tmp_path / "f")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]


def test_a_part_of_a_key_is_not_left(tmp_path: Path) -> None:
    with full(), pytest.raises(DataError, match="cannot be written"):
        write_private(tmp_path / "key", bytes(1000))
    assert not list(tmp_path.iterdir())


def test_state_that_cannot_be_kept_ends_the_stage_and_names_the_file(tmp_path: Path) -> None:
    with full(), pytest.raises(TrainingError, match=r"bank\..* cannot be written"):
        FileMemory(tmp_path, 0, 0).save("bank", {"x": torch.zeros(1000)})
    assert not list(tmp_path.iterdir())


def test_commands_tell_a_full_disk_in_one_message(tmp_path: Path) -> None:
    site = str(tmp_path / "site.toml")
    with full():
        done = CliRunner().invoke(client, ["init", site])
        as_json = CliRunner().invoke(client, ["init", site, "--json"])
    assert (done.exit_code, done.stderr.startswith(f"Error: {site} cannot be written")) == (1, True)
    assert json.loads(as_json.stdout)["ok"] is False
    assert CliRunner().invoke(client, ["init", site]).exit_code == 0


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    done = CliRunner().invoke(app, ["keys", "--site", "a", "--out", str(tmp_path / out)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {tmp_path / out}: ")
    assert "in the way of a folder" in done.stderr


def test_only_what_the_disk_or_its_owner_has_to_mend_is_told_without_a_traceback() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/d/f")
    assert told(error) == ("/d/f: No space left on device. Free some room, then try again.")
    assert told(OSError(errno.EBADF, "Bad file descriptor")) == ""
    assert told(BrokenPipeError(errno.EPIPE, "Broken pipe")) == ""
