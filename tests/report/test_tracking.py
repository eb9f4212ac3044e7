"""Scalars have the same names and values in every tracker."""

from __future__ import annotations

import importlib.util
import json
import logging
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedssl.config import RunConfig, parse_run_config
from fedssl.errors import ConfigError
from fedssl.progress import ConsoleProgress
from fedssl.results import RoundRecord, RunFolder, SiteResult
from fedssl.tracking import (
    TRACKERS,
    TensorBoardTracker,
    TrackedProgress,
    result_scalars,
    round_scalars,
    run_name,
)

Scalars = dict[str, list[tuple[int, float]]]


def records(folder: Path) -> list[RoundRecord]:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["evaluation"] = {s: SiteResult(**r) for s, r in line["evaluation"].items()}
    return [RoundRecord(**line) for line in lines]


def expected(folder: Path) -> Scalars:
    """Return what a tracker has to hold after the run: (step, value) by name."""
    found: Scalars = {}
    results = json.loads((folder / "results.json").read_text())
    rounds = [(r.round + 1, round_scalars(r)) for r in records(folder)]
    for step, scalars in [*rounds, (results["rounds"], result_scalars(results))]:
        for name, number in scalars.items():
            found.setdefault(name, []).append((step, pytest.approx(number, rel=1e-6)))
    return found


def events(folder: Path) -> Scalars:
    """Return what TensorBoard reads."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(e.step, e.value) for e in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def written(name: str, run: Path, folder: Path) -> None:
    """Let a tracker write the rounds and results of a finished run."""
    folder.mkdir()
    tracker = TRACKERS[name](folder, {"method": "denoise", "lr": 0.02}, 0)
    for record in records(run):
        tracker.log(round_scalars(record), record.round + 1)
    results = json.loads((run / "results.json").read_text())
    tracker.log(result_scalars(results), results["rounds"])
    tracker.close()


def test_every_run_leaves_tensorboard_events_with_all_its_scalars(pictures: Path) -> None:
    assert events(pictures) == expected(pictures)


def test_names_are_stable(pictures: Path) -> None:
    assert {
        "round/seconds",
        "round/bytes_up",
        "round/bytes_down",
        "server/mu",
        "site/north/loss",
        "site/north/loss/supervised",
        "site/south/loss/pseudo",
        "site/south/retained",
        "val/mean_dice",
        "val/north/dice/disc",
        "val/south/dice/cup",
        "val/south/pseudo_dice/disc",
        "test/mean_dice",
        "test/north/dice/disc",
        "test/north/hd95/cup",
        "test/south/assd/disc",
        "test/south/pseudo_dice",
    } <= events(pictures).keys()


def test_mlflow_holds_the_same_names_and_values(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written("mlflow", pictures, tmp_path / "run")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedssl")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "denoise", "lr": "0.02"}
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert history == expected(pictures)


def test_wandb_holds_the_same_names_and_values(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    written("wandb", pictures, tmp_path / "run")
    wandb.teardown()
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    found: Scalars = {}
    for content in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        items = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for name, number in items.items():
            if not name.startswith("_"):
                found.setdefault(name, []).append((items["_step"], number))
    assert found == expected(pictures)


def log_records(content: bytes) -> list[bytes]:
    """Return the records of a LevelDB log, the format of W&B's files: blocks of 32 KiB, chunks with
    checksum (4 bytes), length (2) and kind (1: whole, 2: first, 3: middle, 4: last).
    """
    block, header, at = 32768, 7, 7
    records: list[bytes] = []
    while at + header <= len(content):
        if block - at % block < header:
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        chunk = content[at + header : at + header + length]
        if kind in {1, 2}:
            records.append(chunk)
        else:
            records[-1] += chunk
        at += header + length
    return records


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_before_the_run(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    run = RunConfig(tracking=f"tensorboard,{name}")
    with pytest.raises(ConfigError, match=rf"names '{name}'.*pip install 'fedssl\[tracking\]'"):
        TrackedProgress(ConsoleProgress(Console(quiet=True)), run, tmp_path)


def test_a_resumed_run_replaces_the_rounds_that_it_repeats(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path, {}, 0)
    for step in (1, 2, 3):
        first.log({"server/mu": 0.1 * step}, step)
    first.close()
    time.sleep(1.1)  # TensorBoard reads event files in the order of the second in their names
    second = TensorBoardTracker(tmp_path, {}, 1)
    for step in (2, 3, 4):
        second.log({"server/mu": 1.0 + step}, step)
    second.close()
    (values,) = events(tmp_path).values()
    assert values == [(1, pytest.approx(0.1)), (2, 3.0), (3, 4.0), (4, 5.0)]


def test_names_keep_characters_that_all_trackers_take_and_values_are_finite() -> None:
    record = RoundRecord(
        round=0,
        sites={"north": {"loss/left ventricle (LV): a,b": 1.0, "bad": float("nan")}},
        rule={"mu": float("inf")},
    )
    assert round_scalars(record) == {
        "round/seconds": 0.0,
        "round/bytes_up": 0.0,
        "round/bytes_down": 0.0,
        "site/north/loss/left ventricle _LV__ a_b": 1.0,
    }


def test_names_that_only_differ_in_other_characters_stay_two() -> None:
    record = RoundRecord(round=0, sites={"n": {"lesion <5mm": 1.0, "lesion >5mm": 2.0}})
    found = round_scalars(record)
    assert found["site/n/lesion _5mm"] == 1.0
    assert found["site/n/lesion _5mm_2"] == 2.0


def test_a_finished_run_that_is_resumed_tells_its_results_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    class Memory:
        def __init__(self, folder: Path, config: Mapping[str, object], rounds_done: int) -> None:
            pass

        def log(self, scalars: Mapping[str, float], step: int) -> None:
            told.append(step)

        def close(self) -> None:
            pass

    monkeypatch.setitem(TRACKERS, "tensorboard", Memory)
    for rounds, dice in ((3, 0.5), (3, 0.5), (3, 0.6), (5, 0.6)):
        results = {"rounds": rounds, "mean_dice": dice, "sites": {}, "method": "m", "seed": 0}
        results |= {"task": {"classes": ["background"]}, "weights_sha256": ""}
        (tmp_path / "results.json").write_text(json.dumps(results))
        run = RunConfig(rounds=rounds)
        progress = TrackedProgress(ConsoleProgress(Console(quiet=True)), run, tmp_path)
        progress.start(run, {}, rounds)
        progress.finish(RunFolder(tmp_path, run))
    assert told == [3, 3, 5]


def test_missing_scores_are_left_out() -> None:
    site = {"dice": {"f": None}, "hd95": {"f": None}, "assd": {"f": 2.0}, "pseudo_dice": None}
    assert result_scalars({"mean_dice": None, "sites": {"n": site}}) == {"test/n/assd/f": 2.0}


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    class FullDisk:
        def __init__(self, folder: Path, config: Mapping[str, object], rounds_done: int) -> None:
            assert rounds_done == 2

        def log(self, scalars: Mapping[str, float], step: int) -> None:
            asked.append(step)
            raise OSError("No space left on device")

        def close(self) -> None:
            raise AssertionError

    monkeypatch.setitem(TRACKERS, "tensorboard", FullDisk)
    progress = TrackedProgress(ConsoleProgress(Console(quiet=True)), RunConfig(), tmp_path)
    progress.start(RunConfig(), {}, 2)
    with caplog.at_level(logging.WARNING):
        for round_ in (2, 3):
            progress.round_done(RoundRecord(round=round_))
    assert asked == [3]
    assert "Tracking with tensorboard stops here: No space left on device" in caplog.text


def test_nothing_is_tracked_on_request(tmp_path: Path) -> None:
    progress = TrackedProgress(
        ConsoleProgress(Console(quiet=True)), RunConfig(tracking=""), tmp_path
    )
    progress.start(RunConfig(tracking=""), {}, 0)
    progress.round_done(RoundRecord(round=0))
    assert list(tmp_path.iterdir()) == []


def test_the_key_takes_known_trackers_only() -> None:
    assert RunConfig(tracking=" wandb, tensorboard,wandb ").tracking == "wandb,tensorboard"
    with pytest.raises(ConfigError, match="'tracking': expected 'tensorboard', 'mlflow'"):
        parse_run_config({"tracking": "tensorbord"}, {})


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("runs/vessels/denoise/denoise.mu=0.5/seed0", "vessels/denoise/denoise.mu=0.5/seed0"),
        ("out/vessels/lower/seed1", "vessels/lower/seed1"),
        ("runs/2026-11-30-denoise", "2026-11-30-denoise"),
    ],
)
def test_runs_of_an_experiment_are_named_by_more_than_their_seed(
    tmp_path: Path, place: str, name: str
) -> None:
    assert run_name(tmp_path / place) == name
