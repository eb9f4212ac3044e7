"""`fedssl-client prepare`: once, complete or not at all, and then no image is decoded again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from typer.testing import CliRunner, Result

from clients.cli import app
from clients.site import find_place
from fedssl.data import readers
from fedssl.data.cache import open_prepared
from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.report.progress import run_progress
from fedssl.site import Site

FEDERATION = """
[task]
name = "blobs"
classes = ["background", "blob"]
mode = "slices"
[[site]]
name = "north"
role = "labeled"
path = "north"
"""


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


def rows(*arguments: object) -> list[dict]:
    return json.loads(prepare(*arguments, "--json").stdout)["sites"]


def write_cases(folder: Path, count: int, side: int = 12) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = rng.normal(50, 9, (3, side, side)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"images/{number}.nii.gz"))
        mask = sitk.GetImageFromArray((image > 50).astype(np.uint8))
        sitk.WriteImage(mask, str(folder / f"labels/{number}.nii.gz"))


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    write_cases(tmp_path / "north", 6)
    (tmp_path / "federation.toml").write_text(FEDERATION)
    return tmp_path / "federation.toml"


def test_the_second_time_nothing_is_done(federation: Path) -> None:
    first = prepare(federation)
    assert first.exit_code == 0
    assert "north: 6 cases" in first.stdout
    assert "prepared in" in first.stdout
    assert "were prepared already" in prepare(federation).stdout


def test_a_changed_image_or_key_is_prepared_anew(federation: Path) -> None:
    (first,) = rows(federation)
    assert (first["cases"], first["prepared"]) == (6, 6)
    assert first["bytes"] > 6 * 3 * 12 * 12 * 5
    (again,) = rows(federation)
    assert (again["folder"], again["prepared"]) == (first["folder"], 0)
    plan = federation.with_name("plan.toml")
    plan.write_text('image-size = "8"\n')
    for keys in (["--config", plan], ["--set", "image-size=9"], ["--set", "mode=3d"]):
        (other,) = rows(federation, *keys)
        assert other["prepared"] == 6
        assert other["folder"] != first["folder"]
    write_cases(federation.parent / "north", 1, side=16)
    (changed,) = rows(federation)
    assert changed["prepared"] == 6
    assert changed["folder"] != first["folder"]


def test_a_hospital_prepares_into_its_state_directory_where_training_looks(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = rows(hospital / "site.toml", "--set", "image-size=16")
    assert Path(row["folder"]).parent == hospital / "state/cache"
    node = {"site-file": str(hospital / "site.toml"), "state-dir": str(hospital / "state")}
    place = find_place(node, {"image-size": "16"}, 1)
    monkeypatch.setattr(readers, "_read", must_not_be_called)
    site = Site(place.spec, place.task, place.run, place.state)
    assert site.prepared.folder == Path(row["folder"])


def must_not_be_called(*_: object) -> None:
    raise AssertionError("an image file was decoded")


def test_training_after_it_decodes_no_image_file(
    federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        "federation": str(federation),
        "method": "fedavg",
        "rounds": 2,
        "local-steps": 2,
        "model.width": 4,
        "model.depth": 1,
        "batch-size": 2,
        "tracking": "",
        "device": "cpu",
        "evaluate.overlays": 0,
    }
    run = load_config(keys)
    assert prepare(federation).exit_code == 0
    monkeypatch.setattr(readers, "_read", must_not_be_called)
    out = federation.parent / "run"
    simulate(run, out, progress=run_progress(run, out))
    assert (out / "model.safetensors").is_file()
    # a run that prepares otherwise has to decode, so the trap would have shut
    other = load_config({**keys, "image-size": "8"})
    with pytest.raises(AssertionError, match="was decoded"):
        simulate(other, out, progress=run_progress(other, out))


def test_a_killed_process_leaves_nothing_that_passes_for_finished(federation: Path) -> None:
    write_cases(federation.parent / "north", 40, side=160)
    cache = federation.parent / "user-cache/fedssl"
    command = [sys.executable, "-c", "from clients.cli import app; app()", "prepare"]
    process = subprocess.Popen([*command, str(federation)], env=dict(os.environ))
    try:
        started = wait_for_a_part(cache, 40 * 3 * 160 * 160 * 4)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert process.returncode == -signal.SIGKILL
    left = [path.name for path in cache.iterdir() if path.name != "digests"]
    assert left == [started]
    assert started.startswith(".")
    (row,) = rows(federation)
    assert (row["cases"], row["prepared"]) == (40, 40)
    site = open_prepared(cache, Path(row["folder"]).name)
    assert site is not None
    assert site.image(39).shape == (1, 3, 160, 160)
    assert np.isfinite(site.image(39)).all()


def wait_for_a_part(cache: Path, whole: int) -> str:
    """Return the name of the folder that holds some, but not all, of the images."""
    for _ in range(6000):
        for path in cache.glob(".*.tmp/images.npy"):
            if 0 < path.stat().st_size < whole:
                return path.parent.name
        time.sleep(0.01)
    raise AssertionError("nothing was written within a minute")


def test_what_cannot_be_read_is_named_and_nothing_is_kept(federation: Path) -> None:
    (federation.parent / "north/images/3.nii.gz").write_bytes(b"")
    done = prepare(federation)
    assert done.exit_code == 1
    assert "3.nii.gz is empty" in done.stderr
    cache = federation.parent / "user-cache/fedssl"
    assert [path.name for path in cache.iterdir() if path.name != "digests"] == []
