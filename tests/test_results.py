"""The run folder: begun, continued, and complete only at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedssl.config import RunConfig
from fedssl.errors import CheckpointError, ConfigError
from fedssl.functional.averaging import weights_sha256
from fedssl.results import RoundRecord, RunFolder, SiteResult
from fedssl.types import Role, SiteInfo, Task

TASK = Task("t", ("background", "disc", "cup"))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "deep" / "run", RunConfig(rounds=5))


def test_a_new_run_begins_without_rounds(folder: RunFolder):
    folder.begin(0, resumed=False)
    assert folder.records() == []
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.toml", "rounds.jsonl"]


def test_rounds_are_appended_line_by_line(folder: RunFolder):
    folder.begin(0, resumed=False)
    for number in range(3):
        folder.append(RoundRecord(number, stages=["train"], sites={"a": {"loss": 0.5}}))
    assert [r["round"] for r in folder.records()] == [0, 1, 2]
    assert folder.records()[1]["sites"] == {"a": {"loss": 0.5}}


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(folder: RunFolder):
    folder.begin(0, resumed=False)
    folder.append(RoundRecord(0))
    before = {p: p.read_bytes() for p in folder.path.iterdir()}
    with pytest.raises(CheckpointError, match=r"holds a run already\. Give another 'out', or"):
        folder.begin(0, resumed=False)
    assert {p: p.read_bytes() for p in folder.path.iterdir()} == before


@pytest.mark.parametrize("rest", ["", '{"round": 2, "stages": [], "sec', "\x00\x00"])
def test_resuming_drops_rounds_without_a_checkpoint_and_torn_lines(folder: RunFolder, rest: str):
    folder.begin(0, resumed=False)
    for number in range(2):
        folder.append(RoundRecord(number))
    with folder.rounds.open("a") as file:
        file.write(rest)
    folder.begin(1, resumed=True)
    assert [r["round"] for r in folder.records()] == [0]
    folder.append(RoundRecord(1))
    assert [r["round"] for r in folder.records()] == [0, 1]


def test_a_finished_run_that_goes_on_is_unfinished_until_its_end(folder: RunFolder):
    folder.begin(0, resumed=False)
    for number in range(5):
        folder.append(RoundRecord(number))
    for name in ("results.json", "model.safetensors", "report.html"):
        (folder.path / name).write_text("of 5 rounds")
    folder.begin(5, resumed=True)
    assert folder.results.exists()
    longer = RunFolder(folder.path, RunConfig(rounds=8))
    longer.begin(5, resumed=True)
    assert len(longer.records()) == 5
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.toml", "rounds.jsonl"]


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"cannot be written: .*Give another 'out'"):
            RunFolder(path, RunConfig()).begin(0, resumed=False)


def test_results_hold_what_readers_rely_on(folder: RunFolder):
    folder.begin(0, resumed=False)
    heard = {"a": {"loss": 1.0}}
    folder.append(RoundRecord(0, seconds=1.5, bytes_up=10, bytes_down=20, sites=heard))
    folder.append(RoundRecord(1, seconds=2.5, bytes_up=1, bytes_down=2))
    weights = {"w": torch.arange(6.0).reshape(2, 3).T}
    metrics = {"dice/disc": 0.8, "dice/cup": 0.6, "hd95/disc": 3.0, "pseudo_dice/cup": 0.5}
    sites = {
        "a": SiteResult("labeled", "test", metrics, 4),
        "b": SiteResult("unlabeled", "test", {}, 0),
    }
    folder.write_results(
        weights,
        sites,
        engine="loopback",
        task=TASK,
        roster={
            "a": SiteInfo("a", Role.LABELED, 10, 10),
            "b": SiteInfo("b", Role.UNLABELED, 7, 0),
        },
        versions={"torch": "1"},
        units={"a": "mm", "b": "pixel"},
    )
    found = json.loads(folder.results.read_text())
    assert (found["schema"], found["method"], found["seed"], found["rounds"]) == (
        1,
        "denoise",
        0,
        5,
    )
    assert found["weights_sha256"] == weights_sha256(load_file(folder.model))
    assert found["mean_dice"] == pytest.approx(0.7)
    assert (found["wall_seconds"], found["bytes_up"], found["bytes_down"]) == (4.0, 11, 22)
    assert found["sites"]["a"] == {
        "role": "labeled",
        "split": "test",
        "cases": 4,
        "answered": True,
        "dice": {"disc": 0.8, "cup": 0.6},
        "hd95": {"disc": 3.0, "cup": None},
        "assd": {"disc": None, "cup": None},
        "pseudo_dice": 0.5,
        "distance_unit": "mm",
        "num_examples": 10,
        "num_labeled": 10,
        "rounds": 1,
    }
    assert found["sites"]["b"]["rounds"] == 0
    assert found["sites"]["b"]["dice"] == {"disc": None, "cup": None}
    assert found["sites"]["b"]["pseudo_dice"] is None


def test_without_any_mask_there_is_no_mean(folder: RunFolder):
    assert SiteResult("unlabeled", "test", {"pseudo_dice/x": 0.5}, 0).mean_dice() is None
    folder.begin(0, resumed=False)
    folder.write_results(
        {"w": torch.zeros(1)},
        {"b": SiteResult("unlabeled", "test", {}, 0)},
        engine="loopback",
        task=TASK,
        roster={"b": SiteInfo("b", Role.UNLABELED, 7, 0)},
        versions={},
        units={"b": "mm"},
    )
    assert json.loads(folder.results.read_text())["mean_dice"] is None
