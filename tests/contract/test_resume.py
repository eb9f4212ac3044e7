"""A run that was interrupted anywhere ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import TINY, Configure, Crash, Finished, Silent, run_watched

from fedssl.config import RunConfig
from fedssl.data.site_data import SiteTrainingData
from fedssl.memory import FileMemory

ROUNDS = int(TINY["rounds"])
UNREPEATABLE = {"seconds"}


def everything(folder: Path) -> dict[str, Any]:
    """Return all that a run decided: weights, states, stored maps, memories, records."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            arrays = load_file(path)
            found |= {f"{name}:{key}": (v.dtype, tuple(v.shape)) for key, v in arrays.items()}
            found |= {f"{name}:{key}:bytes": raw(v) for key, v in arrays.items()}
        elif path.suffix == ".npy":
            array = np.load(path)  # behind it stands the run, which has a name of its own
            found[name] = (array.dtype, array.shape, array.tobytes())
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found["rounds"] = [{k: v for k, v in r.items() if k not in UNREPEATABLE} for r in records]
    return found


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_alike(folder: Path, whole: Finished) -> None:
    ours, theirs = everything(folder), everything(whole.folder)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []


def resumed(run: RunConfig, folder: Path) -> int:
    """Resume with new objects, as a new process would, and return the first round."""
    progress = Silent()
    run_watched(run.model_copy(update={"resume": True}), folder, progress=progress)
    assert progress.finished
    return progress.first_round


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_run_resumes_after_every_round(
    round_: int, configure: Configure, whole: Finished, tmp_path: Path
):
    run = configure()
    with pytest.raises(Crash):
        run_watched(run, tmp_path, progress=Silent(crash_after=round_))
    assert resumed(run, tmp_path) == round_ + 1
    assert_alike(tmp_path, whole)


@pytest.mark.parametrize("round_", range(1, ROUNDS))
def test_a_run_resumes_when_some_sites_of_a_round_had_answered(
    round_: int, configure: Configure, whole: Finished, tmp_path: Path
):
    run = configure()
    before = [u for u in whole.exchange.trained if u.round < round_]
    with pytest.raises(Crash):
        run_watched(run, tmp_path, crash_after=len(before) + 1)
    assert resumed(run, tmp_path) == round_
    assert_alike(tmp_path, whole)


@pytest.mark.parametrize(
    ("target", "name"), [(FileMemory, "save"), (SiteTrainingData, "store")], ids=["memory", "maps"]
)
def test_a_run_resumes_when_a_site_died_while_it_wrote(
    target: type,
    name: str,
    configure: Configure,
    whole: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Dies in the last round that writes, before the last of its writes."""
    run, original = configure(), getattr(target, name)
    calls: list[int] = []

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(len(calls))
        original(self, *args, **kwargs)

    monkeypatch.setattr(target, name, counted)
    run_watched(run, tmp_path / "counted")
    if not calls:
        pytest.skip(f"{run.method} never calls {target.__name__}.{name}")
    total = len(calls)
    calls.clear()

    def deadly(self: Any, *args: Any, **kwargs: Any) -> None:
        counted(self, *args, **kwargs)
        if len(calls) == max(1, total - 1):
            raise Crash

    monkeypatch.setattr(target, name, deadly)
    with pytest.raises(Crash):
        run_watched(run, tmp_path / "run")
    monkeypatch.setattr(target, name, original)
    resumed(run, tmp_path / "run")
    assert_alike(tmp_path / "run", whole)


def test_resuming_a_finished_run_changes_nothing(
    configure: Configure, whole: Finished, tmp_path: Path
):
    run = configure()
    run_watched(run, tmp_path)
    assert resumed(run, tmp_path) == ROUNDS
    assert_alike(tmp_path, whole)
