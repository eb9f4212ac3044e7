"""`denoise`: the pseudo-labels of a site, and what it trains on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from denoise_runs import PAIR, THREE, Start, rounds_in_which_maps_are_stored, stored, trained
from tiny_federations import (
    Watched,
    open_sites,
    run_through,
)
from torch import Tensor

from fedssl.config import ModelConfig, RunConfig, Scalar
from fedssl.errors import ConfigError
from fedssl.methods import METHODS, load_config
from fedssl.methods.denoise import DenoiseConfig
from fedssl.methods.denoise_config import warn_of_thresholds
from fedssl.types import Role, Task

EXACT: dict[str, Scalar] = {
    "denoise.denoising": "none",
    "denoise.passes": 1,
    "denoise.gamma": 0.5,
    "model.dropout-bottleneck": 0.0,
    "model.dropout-head": 0.0,
    "rounds": 2,
}
"""One pass without dropout or doubt: a label is where the map exceeds gamma."""


def test_without_dropout_every_pixel_is_certain_and_a_warning_says_so(
    start: Start, caplog: pytest.LogCaptureFixture
):
    keys = {"model.dropout-bottleneck": 0.0, "model.dropout-head": 0.0}
    run = start(keys={**keys, "denoise.denoising": "uncertainty"})
    assert [u.metrics["retained"] for u in trained(run, "west")] == [1.0, 1.0]
    assert "trusts every pixel" in caplog.text


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ({"denoising": "none"}, True),
        ({"denoising": "none", "gamma": 0.5}, False),
        ({"denoising": "none", "threshold": "expected"}, False),
        ({}, False),
    ],
)
def test_doubt_that_is_taught_as_background_is_warned_of(
    keys: dict[str, str | float], warned: bool, caplog: pytest.LogCaptureFixture
):
    warn_of_thresholds(DenoiseConfig.model_validate(keys), ModelConfig())
    assert ("masks shrink" in caplog.text) == warned


def test_a_site_that_trusts_nothing_trains_nothing_and_returns_the_weights_it_got(start: Start):
    run = start(keys={"denoise.eta": 1e-12})
    sent = [d for d in run.exchange.downloads if d.site == "west" and d.stage == "train"]
    uploads = trained(run, "west")
    assert len(sent) == len(uploads) == 2
    for download, upload in zip(sent, uploads, strict=True):
        assert upload.metrics["retained"] == upload.metrics["cases_kept"] == 0.0
        assert upload.metrics["steps_skipped"] == run.run.local_steps
        assert upload.weights.keys() == download.weights.keys()
        assert all(torch.equal(upload.weights[k], v) for k, v in download.weights.items())
    weighed = start(keys={"denoise.eta": 1e-12, "denoise.weight-by-retained": True})
    assert weighed.digest == start("fedavg").digest


def test_a_site_that_missed_the_relabeling_labels_when_it_comes(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    written = rounds_in_which_maps_are_stored(monkeypatch)
    run = start(keys={"rounds": 4, "denoise.refresh": 0, "min-unlabeled": 0}, absent={(1, "west")})
    assert sorted(set(written)) == [3]
    assert [u.round for u in trained(run, "west")] == [2, 3]
    assert all(u.metrics["retained"] > 0 for u in trained(run, "west"))


def test_a_mixed_site_learns_from_masks_first_and_from_both_later(start: Start):
    run = start(roles={"north": "labeled", "south": "mixed"})
    first, *later = trained(run, "south")
    assert "loss/supervised" in first.metrics
    assert "loss/pseudo" not in first.metrics
    for upload in later:
        assert {"loss/supervised", "loss/pseudo", "retained"} <= upload.metrics.keys()
        assert upload.metrics["cases_kept"] == len(run.exchange.sites["south"].data.unlabeled)


def test_stored_pseudo_labels_are_binary_and_nested(start: Start):
    run = start(keys={"lr": 0.01, "local-steps": 8, "denoise.gamma": 0.5, "denoise.eta": 0.5})
    maps = stored(run, "west")
    assert len(maps) == len(run.exchange.sites["west"].split.train)
    for each in maps:
        assert set(each) == {"pseudo", "trust"}
        disc, cup = each["pseudo"]
        assert set(np.unique(each["pseudo"])) <= {0, 1}
        assert set(np.unique(each["trust"])) <= {0, 1}
        assert not (cup & ~disc & 1).any()


def test_the_masked_dice_can_be_added_to_the_loss(start: Start):
    plain, with_dice = start(), start(keys={"denoise.dice-weight": 1.0})
    for ours, theirs in zip(trained(with_dice, "west"), trained(plain, "west"), strict=True):
        assert ours.metrics["loss/pseudo"] > theirs.metrics["loss/pseudo"]
        assert ours.metrics["loss/pseudo"] < theirs.metrics["loss/pseudo"] + 1.1


def test_a_class_counts_only_where_every_class_is_trusted_in_exclusive_tasks(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    """Two classes, each trusted in its own half: no pixel has a target, so there is no step."""
    from fedssl.engine import pick_device
    from fedssl.memory import FileMemory
    from fedssl.methods.base import LocalSetup
    from fedssl.seeds import generators
    from fedssl.types import UnlabeledBatch, View

    run = configure("denoise", {}, PAIR)
    task = Task("t", ("background", "liver", "tumor"), channels=3)
    method = METHODS["denoise"]
    assert method.unlabeled is not None
    objective = method.unlabeled(
        LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=method.build_model(run, task),
            memory=FileMemory(tmp_path, 0, 0),
            rng=generators(0, "test"),
            device=pick_device("cpu"),
            role=Role.UNLABELED,
        )
    )

    def terms(trust: Tensor) -> int:
        view = View(torch.randn(1, 3, 32, 32), torch.eye(2, 3)[None])
        maps = {"pseudo": torch.zeros(1, 2, 32, 32, dtype=torch.uint8), "trust": trust}
        batch = UnlabeledBatch({"weak": view, "strong": view}, maps, torch.tensor([0]))
        return len(objective.training_step(None, batch).unsupervised)

    halves = torch.zeros(1, 2, 32, 32, dtype=torch.uint8)
    halves[:, 0, :16], halves[:, 1, 16:] = 1, 1
    assert terms(halves) == 0
    halves[:, 1, 15] = 1
    assert terms(halves) == 1


def test_an_ensemble_labels_with_the_mean_of_its_teachers_maps(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    """Without dropout one pass is exact: the label is where the mean map exceeds gamma."""
    run = configure("denoise", {**EXACT, "denoise.source": "ensemble"}, THREE)
    finished = run_through(Watched(open_sites(run, tmp_path / "run")), run, tmp_path / "run")
    site = finished.exchange.sites["west"]
    models = [u.weights for u in finished.exchange.trained if u.round == 0]
    network = METHODS["denoise"].build_model(run, site.task).eval()
    for case, maps in zip(site.data.unlabeled, stored(finished, "west"), strict=True):
        probs = []
        for weights in models:
            network.load_state_dict(weights)
            with torch.no_grad():
                probs.append(network(site.data.image(case)[None]).logits.sigmoid()[0])
        disc, cup = ((probs[0] + probs[1]) / 2 > 0.5).numpy()
        np.testing.assert_array_equal(maps["pseudo"][0], disc)
        np.testing.assert_array_equal(maps["pseudo"][1], cup & disc)


def test_views_are_averaged_on_the_images_grid(configure: Callable[..., RunConfig], tmp_path: Path):
    """Of four flips and no dropout, the label is where the mean of the maps exceeds gamma."""
    run = configure("denoise", {**EXACT, "denoise.flips": True}, PAIR)
    finished = run_through(Watched(open_sites(run, tmp_path / "run")), run, tmp_path / "run")
    site = finished.exchange.sites["west"]
    network = METHODS["denoise"].build_model(run, site.task).eval()
    network.load_state_dict(next(u.weights for u in finished.exchange.trained if u.round == 0))
    for case, maps in zip(site.data.unlabeled, stored(finished, "west"), strict=True):
        image = site.data.image(case)[None]
        mean = torch.zeros(1, 2, *image.shape[2:])
        for axes in ([], [3], [2], [2, 3]):
            with torch.no_grad():
                mean += network(image.flip(axes)).logits.sigmoid().flip(axes) / 4
        disc, cup = (mean[0] > 0.5).numpy()
        np.testing.assert_array_equal(maps["pseudo"][0], disc)
        np.testing.assert_array_equal(maps["pseudo"][1], cup & disc)


def test_views_of_several_sizes_doubt_what_one_view_is_sure_of(start: Start):
    keys = {"denoise.denoising": "uncertainty", "denoise.passes": 1}
    keys |= {"model.dropout-bottleneck": 0.0, "model.dropout-head": 0.0}
    views = start(keys={**keys, "denoise.scales": "0.5,1,1.5"})
    assert trained(start(keys=keys), "west")[0].metrics["retained"] == 1.0
    assert trained(views, "west")[0].metrics["retained"] < 1.0
    agreed = start(keys={**keys, "denoise.scales": "0.5,1,1.5", "denoise.doubt": "passes"})
    assert trained(agreed, "west")[0].metrics["retained"] == 1.0


def test_sizes_can_make_the_label_and_dropout_the_doubt(start: Start):
    keys = {"denoise.denoising": "uncertainty", "denoise.passes": 3, "denoise.scales": "0.5,1.5"}
    spread = trained(start(keys=keys), "west")[0].metrics["retained"]
    within = trained(start(keys={**keys, "denoise.doubt": "passes"}), "west")[0].metrics["retained"]
    assert spread < within < 1.0


@pytest.mark.parametrize("scales", ["", "big", "1,", "0.1", "nan"])
def test_sizes_that_make_no_sense_are_refused(scales: str):
    with pytest.raises(ConfigError, match=r"denoise\.scales.*numbers from 0\.25 to 4"):
        load_config({"method": "denoise", "denoise.scales": scales})


def test_one_size_may_be_given_as_a_number():
    config = load_config({"method": "denoise", "denoise.scales": 1.5}).method_config
    assert isinstance(config, DenoiseConfig)
    assert [view.scale for view in config.views] == [1.5]
