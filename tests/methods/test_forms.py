"""Every method alone at one mixed site, on volumes, and in half precision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import Finished, run_watched, tiny_run, write_federation

import fedssl
from fedssl.cli.options import read_experiment
from fedssl.config import Scalar
from fedssl.federation import load_federation
from fedssl.functional.averaging import all_finite
from fedssl.methods import METHODS, load_config, method_of
from fedssl.types import Role

LEARNS = [name for name, method in METHODS.items() if method.mixed is not None]
EASY: dict[str, dict[str, Scalar]] = {
    "denoise": {"denoise.passes": 2, "denoise.eta": 1.0},
    "reference": {"reference.min-pixels": 2, "reference.grid": 8, "reference.views": 1},
    "quality": {
        "rounds": 3,
        "quality.predictor-rounds": 1,
        "quality.predictor-steps": 1,
        "quality.width": 4,
        "quality.threshold": 0.0,
        "quality.gate-correlation": -1.0,
        "quality.gate-blackout": 1.01,
    },
    "fixmatch": {"fixmatch.threshold": 0.3},
    "unimatch": {"unimatch.threshold": 0.3},
    "ua_mt": {"ua_mt.threshold": 1.0, "ua_mt.passes": 2},
    "fedmix": {"fedmix.agreement": 0.0},
    "fedirm": {"fedirm.passes": 2},
    "cbafed": {"cbafed.cap": 0.1},
}
"""Keys with which untrained networks are trusted."""
LA = Path(fedssl.__file__).resolve().parents[1] / "experiments" / "la"


def unsupervised(record: dict[str, float]) -> dict[str, float]:
    """Return a site's losses besides the supervised one, with how they are named."""
    return {
        name: value
        for name, value in record.items()
        if name.startswith("loss/") and name != "loss/supervised"
    }


@pytest.mark.parametrize("method", LEARNS)
def test_a_mixed_site_alone_is_enough(method: str, tmp_path: Path, prepared_cache: Path):
    file = write_federation(tmp_path, {"south": "mixed"})
    flat = {"method": method, "rounds": 2, f"{method}.warmup-rounds": 1, **EASY.get(method, {})}
    done = run_watched(tiny_run(file, prepared_cache, flat), tmp_path / "run")
    assert {d.site for d in done.exchange.downloads} == {"south"}
    last = done.rounds[-1]["sites"]["south"]
    assert last["loss/supervised"] > 0
    assert unsupervised(last)
    assert all(math.isfinite(value) for value in last.values())


def finished(method: str, file: Path, cache: Path, keys: dict[str, Scalar]) -> Finished:
    """Run two rounds over three roles, the second with unlabeled images, and check its end."""
    flat: dict[str, Scalar] = {"method": method, "rounds": 2, **keys, **EASY.get(method, {})}
    flat |= {f"{method}.warmup-rounds": 1} if method in LEARNS else {}
    done = run_watched(tiny_run(file, cache, flat), file.parent / "run")
    last = done.rounds[-1]["sites"]
    if method in LEARNS:
        assert len(last) == 3
        unlabeled = {u.site for u in done.exchange.trained if u.role == Role.UNLABELED}
        assert all(unsupervised(last[site]) for site in unlabeled)
        assert unlabeled
    state = load_file(done.folder / "model.safetensors")
    assert all_finite(state)
    assert {v.dtype for v in state.values()} <= {torch.float32, torch.int64}
    return done


@pytest.mark.parametrize("method", list(METHODS))
def test_volumes_are_learned_from(method: str, tmp_path: Path, prepared_cache: Path):
    text = '[task]\nname = "p"\nclasses = ["background", "prostate"]\nmode = "3d"\n'
    for look, role in enumerate(("labeled", "mixed", "unlabeled")):
        text += f'[[site]]\nname = "{role}"\nrole = "{role}"\nlayout = "synthetic"\n'
        text += "labeled = 2\n" if role == "mixed" else ""
        text += f'options = {{ kind = "prostate", look = {look}, images = 6, size = 32 }}\n'
    (tmp_path / "federation.toml").write_text(text)
    keys: dict[str, Scalar] = {"patch-size": "8,16,16", "image-size": "8,32,32"}
    finished(method, tmp_path / "federation.toml", prepared_cache, keys)


@pytest.mark.parametrize("method", list(METHODS))
def test_half_precision_trains_and_keeps_weights_in_single(
    method: str, tmp_path: Path, prepared_cache: Path
):
    # Pictures only: for small volumes, PyTorch's CPU kernels have lost gradients in bfloat16.
    file = write_federation(tmp_path)
    finished(method, file, prepared_cache, {"precision": "bf16"})


@pytest.mark.parametrize("name", ["mutual-8", "mutual-8-half"])
def test_the_papers_setting_is_one_mixed_site_with_eight_masks(name: str):
    run = load_config(read_experiment(LA / f"{name}.toml"))
    (site,) = load_federation(run).sites
    assert (run.method, site.role, site.labeled) == ("mutual", Role.MIXED, 8)
    task = load_federation(run).task
    sizes = [p.numel() for p in method_of(run).build_model(run, task).parameters()]
    if name == "mutual-8":
        assert sum(sizes) == 12_347_716
        assert run.rounds * run.local_steps == 15_000
    else:
        assert run.rounds * run.local_steps <= 1000


def test_the_half_resolution_setting_starts(tmp_path: Path, prepared_cache: Path):
    text = '[task]\nname = "p"\nclasses = ["background", "prostate"]\nmode = "3d"\n'
    text += '[[site]]\nname = "one"\nrole = "mixed"\nlabeled = 3\nlayout = "synthetic"\n'
    text += 'options = { kind = "prostate", look = 0, images = 8, size = 32 }\n'
    (tmp_path / "federation.toml").write_text(text)
    flat = read_experiment(LA / "mutual-8-half.toml")
    flat |= {"rounds": 1, "local-steps": 2, "patch-size": "16,32,32", "model.width": 2}
    flat["federation"] = str(tmp_path / "federation.toml")
    done = run_watched(tiny_run(Path(flat["federation"]), prepared_cache, flat), tmp_path / "run")
    (record,) = done.rounds
    assert {"loss/supervised", "loss/mutual-1-from-2", "loss/mutual-2-from-1"} <= set(
        record["sites"]["one"]
    )
