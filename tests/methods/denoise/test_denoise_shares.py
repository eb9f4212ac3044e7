"""Thresholds that `denoise` finds: the share of true masks, or what the probabilities add up to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from denoise_runs import STAGE, UPLOADS, Start, rule, stored
from tiny_federations import Finished

from fedssl.engine import load_weights
from fedssl.site import shared_model

SHARE = {
    "denoise.threshold": "share",
    "denoise.denoising": "none",
    "denoise.warmup-rounds": 2,
    "rounds": 4,
}
TWO = {"north": "labeled", "south": "mixed", "west": "unlabeled"}


def true_share(run: Finished) -> torch.Tensor:
    """Foreground of disc and cup under all masks of the federation, by hand."""
    counts, pixels = torch.zeros(2), 0
    for site in run.exchange.sites.values():
        for case in site.data.labeled:
            label = site.data.label(case)
            counts += torch.stack([(label >= 1).sum(), (label >= 2).sum()])
            pixels += label.numel()
    return counts / pixels


def test_the_share_is_that_of_all_masks_and_only_the_sites_that_need_it_receive_it(start: Start):
    run = start(keys=SHARE, roles=TWO)
    sent = [d for d in run.exchange.downloads if "foreground_share" in d.knowledge]
    assert {(d.round, d.site) for d in sent} == {
        (2, "south"),
        (2, "west"),
        (3, "south"),
        (3, "west"),
    }
    for download in sent:
        torch.testing.assert_close(
            download.knowledge["foreground_share"].float(), true_share(run), rtol=1e-5, atol=0
        )
    counted = [u for u in run.exchange.trained if "foreground_count" in u.knowledge]
    assert {(u.round, u.site) for u in counted} == {(1, "north"), (1, "south")}


def test_labels_have_that_share_unless_the_network_is_too_sure(start: Start):
    run = start(keys=SHARE, roles=TWO)
    labels = np.stack([maps["pseudo"] for maps in stored(run, "west")])
    found = labels.reshape(len(labels), 2, -1).mean(axis=(0, 2))
    assert found[0] == pytest.approx(true_share(run)[0].item(), abs=0.02)
    assert found[1] <= true_share(run)[1].item() + 0.02  # a cup outside the disc is taken back


def test_a_resumed_run_still_knows_the_share():
    keys = {"denoise.threshold": "share", "denoise.warmup-rounds": 3}
    before, after = rule(keys), rule(keys)
    count = {"foreground_count": torch.tensor([30.0, 10.0, 200.0], dtype=torch.float64)}
    before.merge(2, STAGE, {}, [replace(UPLOADS[0], knowledge=count), UPLOADS[1]])
    after.load_state(before.state())
    assert after.knowledge(3, STAGE, "c")["foreground_share"].tolist() == [0.15, 0.05]
    assert after.knowledge(3, STAGE, "a") == {}


def test_without_a_warm_up_nothing_is_known_and_gamma_decides(start: Start):
    keys = {"denoise.warmup-rounds": 0, "denoise.refresh": 0, "rounds": 2, "denoise.gamma": 0.5}
    assert start(keys={**keys, "denoise.threshold": "share"}).digest == start(keys=keys).digest


def test_labels_have_as_much_foreground_as_the_probabilities_add_up_to(start: Start):
    keys = {**SHARE, "denoise.threshold": "expected", "model.dropout-bottleneck": 0.0}
    run = start(keys={**keys, "model.dropout-head": 0.0, "denoise.refresh": 9}, roles=TWO)
    assert not any("foreground_share" in d.knowledge for d in run.exchange.downloads)
    (sent,) = (d for d in run.exchange.downloads if (d.round, d.site) == (2, "west"))
    site = run.exchange.sites["west"]
    model = shared_model(site.run, site.trained_task, site.device)
    load_weights(model, sent.weights)
    model.eval()
    with torch.no_grad():
        images = torch.stack([site.data.image(case) for case in site.data.unlabeled])
        expected = model(images).logits.sigmoid().mean((0, 2, 3))
    labels = np.stack([maps["pseudo"] for maps in stored(run, "west")])
    found = labels.reshape(len(labels), 2, -1).mean(axis=(0, 2))
    assert found[0] == pytest.approx(expected[0].item(), abs=0.02)
    assert found[1] <= expected[1].item() + 0.02
