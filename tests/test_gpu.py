"""The same work on a CUDA device: close to the CPU's weights, flat memory, shared by workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import TINY, Crash, Finished, Silent, run_watched, tiny_run, write_federation

import fedssl
from fedssl.config import Scalar
from fedssl.functional.averaging import all_finite
from fedssl.results import RoundRecord

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

NO_DROPOUT: dict[str, Scalar] = {"model.dropout-bottleneck": 0.0, "model.dropout-head": 0.0}
DENOISE: dict[str, Scalar] = {
    "method": "denoise",
    "rounds": 3,
    "denoise.warmup-rounds": 1,
    "denoise.passes": 3,
    "denoise.prototypes": "mix",
    "denoise.source": "ensemble",
}
Start = Callable[..., Finished]


@pytest.fixture
def start(tmp_path: Path, prepared_cache: Path) -> Start:
    federation = write_federation(tmp_path)

    def run(keys: Mapping[str, Scalar], **more: object) -> Finished:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        config = tiny_run(federation, prepared_cache, {"device": "cuda", **keys})
        return run_watched(config, folder, **more)

    return run


def weights(run: Finished) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model.safetensors")


def test_a_round_on_the_gpu_is_close_to_the_same_round_on_the_cpu(start: Start):
    keys = {"method": "fedavg", "rounds": 1, **NO_DROPOUT}
    cpu, gpu = weights(start({**keys, "device": "cpu"})), weights(start(keys))
    assert cpu.keys() == gpu.keys()
    for name, value in cpu.items():
        torch.testing.assert_close(gpu[name], value, atol=1e-3, rtol=0, msg=name)


@dataclass
class MemoryWatch(Silent):
    """Notes the bytes that are allocated after each round."""

    allocated: list[int] = field(default_factory=list)

    def round_done(self, record: RoundRecord) -> None:
        torch.cuda.synchronize()
        self.allocated.append(torch.cuda.memory_allocated())


@pytest.mark.parametrize("method", ["fedavg", "denoise"])
def test_memory_is_flat_over_rounds(method: str, start: Start):
    watch = MemoryWatch()
    start(
        {**(DENOISE if method == "denoise" else {}), "method": method, "rounds": 20}, progress=watch
    )
    assert watch.allocated[19] == pytest.approx(watch.allocated[2], rel=0.01)


@pytest.mark.parametrize("source", ["local", "labeled", "mix"])
def test_denoise_labels_and_trains_on_the_gpu(source: str, start: Start):
    run = start({**DENOISE, "denoise.prototypes": source})
    assert all_finite(weights(run))
    last = run.rounds[-1]["sites"]
    assert "loss/pseudo" in last["west"]
    assert {"loss/pseudo", "loss/supervised"} <= last["south"].keys()
    for upload in run.exchange.uploads:
        arrays = {**upload.weights, **upload.knowledge}
        assert {a.device.type for a in arrays.values()} <= {"cpu"}


def test_the_same_seed_repeats_nearly_on_the_same_device(start: Start):
    first, second = (weights(start({**DENOISE, "rounds": 2})) for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-3, rtol=0, msg=name)


def test_bf16_trains_on_the_gpu(start: Start):
    assert all_finite(weights(start({**DENOISE, "precision": "bf16"})))


def test_interrupted_on_the_gpu_and_resumed_on_the_cpu(
    start: Start, tmp_path: Path, prepared_cache: Path
):
    with pytest.raises(Crash):
        start(DENOISE, progress=Silent(crash_after=1))
    folder = max(tmp_path.glob("run*"), key=lambda p: p.stat().st_mtime)
    keys = {**DENOISE, "device": "cpu", "resume": True}
    config = tiny_run(tmp_path / "federation.toml", prepared_cache, keys)
    assert len(run_watched(config, folder).rounds) == 3


@pytest.mark.federation
def test_two_flower_workers_share_the_gpu(tmp_path: Path, prepared_cache: Path):
    federation = write_federation(tmp_path / "sites", {"north": "labeled", "west": "unlabeled"})
    keys = {**TINY, **DENOISE, "device": "cuda", "rounds": 2, "min-labeled": 1}
    keys |= {"federation": str(federation), "cache-dir": str(prepared_cache)}
    out = tmp_path / "run"
    command = [sys.executable, "-c", "from fedssl.cli import app; app()", "run"]
    command += ["--out", str(out), "--workers", "2", "--gpus", "0.5"]
    for key, value in keys.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    root = str(Path(fedssl.__file__).parents[1])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [sorted(r["sites"]) for r in records] == [["north"], ["north", "west"]]
    results = json.loads((out / "results.json").read_text())
    assert results["engine"] == "ray"
    assert all(site["cases"] > 0 for site in results["sites"].values())
