"""Each baseline in a federation of a labeled, a mixed and an unlabeled site."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import Finished, run_watched, tiny_run, write_federation

from fedssl.errors import ConfigError
from fedssl.methods import METHODS, load_config
from fedssl.models.parts import norm_names
from fedssl.site import shared_model

LOSSES = {
    "pseudo_label": {"pseudo"},
    "mean_teacher": {"consistency"},
    "ua_mt": {"consistency"},
    "fixmatch": {"fixmatch"},
    "cps": {"cross-1", "cross-2"},
    "ict": {"interpolation"},
    "mc_net": {"agreement"},
    "urpc": {"pyramid"},
    "bcp": {"copy-paste"},
    "unimatch": {"strong-1", "strong-2", "features"},
    "fed_consist": {"dice"},
    "fedirm": {"consistency", "relation"},
    "rscfed": {"consistency"},
    "fedsemiseg": {"agreed", "contrast"},
    "fedmix": {"cross-1", "cross-2"},
    "cbafed": {"pseudo"},
}
"""What an unlabeled site minimises."""
EASY = {
    "fixmatch": {"fixmatch.threshold": 0.5},
    "unimatch": {"unimatch.threshold": 0.5},
    "ua_mt": {"ua_mt.threshold": 1.0, "ua_mt.passes": 2},
    "fedmix": {"fedmix.agreement": 0.0},
    "fedirm": {"fedirm.passes": 2},
    "cbafed": {"cbafed.cap": 0.3},
}
"""Keys with which untrained networks are trusted."""
PAIR = {"north": "labeled", "west": "unlabeled"}


@pytest.fixture
def simulate(tmp_path: Path, prepared_cache: Path):
    def run(method: str, keys=None, roles=None, output: str = "nested") -> Finished:
        folder = tmp_path / f"{method}-{len(list(tmp_path.iterdir()))}"
        file = write_federation(folder, roles) if roles else write_federation(folder)
        file.write_text(file.read_text().replace('"nested"', f'"{output}"'))
        flat = {"method": method, "rounds": 3, **(keys or {})}
        return run_watched(tiny_run(file, prepared_cache, flat), folder / "run")

    return run


@pytest.mark.parametrize("method", list(LOSSES))
def test_unlabeled_images_are_used_after_the_warm_up(method: str, simulate):
    done = simulate(method, EASY.get(method))
    first, _, last = (r["sites"] for r in done.rounds)
    assert set(first) == {"north", "south"}
    assert not any(f"loss/{name}" in first["south"] for name in LOSSES[method])
    assert set(last) == {"north", "south", "west"}
    for site in ("south", "west"):
        named = {k.removeprefix("loss/") for k in last[site] if k.startswith("loss/")}
        assert LOSSES[method] <= named
        assert all(math.isfinite(v) for v in last[site].values())
    assert "loss/supervised" in last["south"]
    assert "loss/supervised" not in last["west"]
    assert last["west"]["steps_skipped"] == 0


@pytest.mark.parametrize("method", ["pseudo_label", "fixmatch", "unimatch"])
def test_rejected_labels_leave_fedavg(method: str, simulate):
    rejecting = simulate(method, {f"{method}.threshold": 1.0}, PAIR)
    assert rejecting.rounds[-1]["sites"]["west"]["steps_skipped"] == 2
    assert rejecting.digest == simulate("fedavg", None, PAIR).digest


def test_fedmix_goes_on_where_the_networks_never_agree(simulate):
    done = simulate("fedmix", {"fedmix.agreement": 1.01}, PAIR)
    west = done.rounds[-1]["sites"]["west"]
    assert (west["cases_kept"], west["steps_skipped"]) == (0, 2)


def test_fedirm_without_relations_is_mean_teacher(simulate):
    keys = {"fedirm.relation-weight": 0.0, "fedirm.average": "samples", "fedirm.weight": 0.1}
    fedirm = simulate("fedirm", keys, output="exclusive")
    uncut = {"mean_teacher.unlabeled-share": 1.0}
    assert fedirm.digest == simulate("mean_teacher", uncut, output="exclusive").digest
    with_relations = simulate("fedirm", {**keys, "fedirm.relation-weight": 1.0}, output="exclusive")
    assert with_relations.digest != fedirm.digest


def test_fedprox_without_a_pull_is_fedavg_and_with_a_strong_one_stays(simulate):
    fedavg = simulate("fedavg")
    assert simulate("fedprox", {"fedprox.mu": 0.0}).digest == fedavg.digest
    keys = {"optimizer": "sgd", "lr": 0.01, "local-steps": 4, "rounds": 1}
    moved = [travelled(simulate("fedprox", {**keys, "fedprox.mu": mu})) for mu in (0.0, 10.0, 50.0)]
    assert moved[0] > moved[1] > moved[2] > 0


def travelled(done: Finished) -> float:
    """Return how far the labeled site went from what it was sent."""
    download = next(d for d in done.exchange.downloads if d.site == "north")
    upload = next(u for u in done.exchange.trained if u.site == "north")
    squares = [(upload.weights[k] - v).square().sum() for k, v in download.weights.items()]
    return float(torch.stack(squares).sum())


def test_momentum_without_memory_is_fedavg(simulate):
    keys = {"fedavg.server-optimizer": "momentum", "fedavg.server-beta1": 0.0}
    assert simulate("fedavg", keys).digest == simulate("fedavg").digest


def test_fedadam_moves_every_weight_by_the_rule_of_its_rate(simulate):
    keys = {"fedavg.server-optimizer": "adam", "fedavg.server-lr": 0.02, "rounds": 1}
    done = simulate("fedavg", {**keys, "fedavg.server-tau": 1e-9})
    final = load_file(done.folder / "model.safetensors")
    sent = next(d for d in done.exchange.downloads if d.stage == "train").weights
    # the first step of every weight that changed is lr (1 - beta1) / sqrt(1 - beta2) = lr
    steps = torch.cat([(final[k] - v).abs().flatten() for k, v in sent.items()])
    # but for the few whose change is not far above tau
    assert ((steps - 0.02).abs() < 1e-4).float().mean() > 0.999
    assert steps.max() < 0.0201


def test_fedbn_keeps_normalisation_at_the_sites(simulate):
    done = simulate("fedbn", {"model.norm": "batch"})
    site = done.exchange.sites["north"]
    norms = set(norm_names(shared_model(done.run, site.task, site.device)))
    assert norms
    for message in (*done.exchange.downloads, *done.exchange.uploads):
        assert not norms & set(message.weights)
    kept = [
        load_file(sorted((done.folder / "sites" / name / "memory").glob("private.*"))[-1])
        for name in ("north", "south")
    ]
    assert set(kept[0]) == norms
    assert any(not torch.equal(kept[0][n], kept[1][n]) for n in norms)


def test_a_mixed_site_alone_is_enough(simulate):
    done = simulate("mean_teacher", {"mean_teacher.warmup-rounds": 0}, {"south": "mixed"})
    assert all("loss/consistency" in r["sites"]["south"] for r in done.rounds)


@pytest.mark.parametrize("method", list(LOSSES))
def test_a_warm_up_that_never_ends_is_refused(method: str):
    with pytest.raises(ConfigError, match=rf"'{method}\.warmup-rounds' = 5 leaves no round"):
        load_config({"method": method, "rounds": 5, f"{method}.warmup-rounds": 5})


def test_urpc_needs_two_levels():
    with pytest.raises(ConfigError, match=r"'model\.depth' = 1"):
        load_config({"method": "urpc", "model.depth": 1})


@pytest.mark.parametrize("method", list(LOSSES))
def test_every_term_can_be_guided(method: str, simulate, monkeypatch: pytest.MonkeyPatch):
    """Terms carry an image, its pseudo-label and the student's probabilities, all per sample."""
    seen = []
    row = METHODS[method]
    original = row.unlabeled

    def watched(setup):
        objective = original(setup)
        step = objective.training_step

        def training_step(labeled, unlabeled):
            losses = step(labeled, unlabeled)
            seen.extend(losses.unsupervised)
            return losses

        objective.training_step = training_step
        return objective

    monkeypatch.setitem(METHODS, method, replace(row, unlabeled=watched))
    done = simulate(method, EASY.get(method), PAIR)
    classes = len(done.exchange.sites["west"].task.foreground)
    assert seen
    for term in seen:
        batch = len(term.numerator)
        assert term.numerator.shape == term.denominator.shape == (batch,)
        assert term.numerator.requires_grad
        assert not term.denominator.requires_grad
        assert term.image.shape == (batch, 3, 32, 32)
        assert term.pseudo_mask.shape == term.student_prob.shape == (batch, classes, 32, 32)
        assert set(term.pseudo_mask.unique().tolist()) <= {0, 1}
        assert term.student_prob.requires_grad
        low, high = term.student_prob.detach().aminmax()
        assert 0 <= low <= high <= 1
