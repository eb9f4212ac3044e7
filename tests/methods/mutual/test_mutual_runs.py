"""`mutual`: whole runs, what travels in them and what stays."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import run_watched, tiny_run, write_federation


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared_cache):
    """Runs over a labeled, a mixed and an unlabeled site, by their keys."""
    federation = write_federation(tmp_path_factory.mktemp("sites"))
    done = {}

    def run(**keys):
        key = tuple(sorted(keys.items()))
        if key not in done:
            flat = {"method": "mutual", "rounds": 3, **{f"mutual.{k}": v for k, v in keys.items()}}
            config = tiny_run(federation, prepared_cache, flat)
            done[key] = run_watched(config, tmp_path_factory.mktemp("run") / "run")
        return done[key]

    return run


def test_every_role_trains_and_reports_its_health(finished):
    *_, last = finished(shared="all").rounds
    north, south, west = (last["sites"][name] for name in ("north", "south", "west"))
    assert {"loss/supervised", "loss/mutual-1-from-2", "supervised", "consistency"} <= set(north)
    assert "collapsed" not in north
    assert {"loss/supervised", "loss/mutual-2-from-1", "foreground", "beta"} <= set(south)
    assert "loss/supervised" not in west
    assert {"selected/1-from-2", "reliability/0", "disagreement", "agreement"} <= set(west)
    assert north["beta"] == south["beta"] == west["beta"] == 1


def test_a_nested_task_is_trained_over_label_values_and_scored_as_nested(finished):
    done = finished(shared="all")
    assert load_file(done.folder / "model.safetensors")["decoders.0.head.bias"].shape == (3,)
    assert set(done.results["sites"]["west"]["dice"]) == {"disc", "cup"}


def test_a_private_second_decoder_never_leaves_its_site(finished):
    done = finished(shared="private_decoder2")
    travelled = {n for m in (*done.exchange.uploads, *done.exchange.downloads) for n in m.weights}
    assert any(n.startswith("decoders.0.") for n in travelled)
    assert any(n.startswith("encoder.") for n in travelled)
    assert not any(n.startswith("decoders.1.") for n in travelled)
    assert not any("decoders.1." in n for n in load_file(done.folder / "model.safetensors"))
    kept = [
        load_file(max((done.folder / "sites" / site / "memory").glob("private.*")))
        for site in ("north", "south")
    ]
    assert all(name.startswith("decoders.1.") for name in kept[0])
    assert not torch.equal(kept[0]["decoders.1.head.weight"], kept[1]["decoders.1.head.weight"])


def test_a_private_second_decoder_is_found_again_in_the_next_round(finished):
    """What round 3 starts from is what round 2 left: its own step moved it by little."""
    done = finished(shared="private_decoder2")
    files = sorted((done.folder / "sites" / "north" / "memory").glob("private.*"))
    before, after = (load_file(f)["decoders.1.head.weight"] for f in files[-2:])
    assert 0 < (after - before).abs().max() < 4 * done.run.lr * done.run.local_steps


@pytest.mark.parametrize("network", ["unet", "vnet"])
def test_volumes_are_trained_on_in_patches(tmp_path, prepared_cache, network):
    text = '[task]\nname = "p"\nclasses = ["background", "prostate"]\nmode = "3d"\n'
    text += '[[site]]\nname = "one"\nrole = "mixed"\nlabeled = 3\nlayout = "synthetic"\n'
    text += 'options = { kind = "prostate", look = 0, images = 8, size = 32 }\n'
    (tmp_path / "federation.toml").write_text(text)
    depth = 4 if network == "vnet" else 2
    flat = {
        "method": "mutual",
        "mutual.network": network,
        "rounds": 1,
        "patch-size": "16",
        "optimizer": "sgd",
        "lr": 0.01,
        "model.depth": depth,
        "model.norm": "batch",
    }
    done = run_watched(
        tiny_run(tmp_path / "federation.toml", prepared_cache, flat), tmp_path / "run"
    )
    (record,) = done.rounds
    assert {"loss/supervised", "loss/mutual-1-from-2"} <= set(record["sites"]["one"])
