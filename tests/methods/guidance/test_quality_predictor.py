"""How the predictor is trained and judged: images held out, the gate, first weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from guided import FUNDUS, configured
from tiny_federations import TINY, write_federation
from torch.nn.functional import smooth_l1_loss

from fedssl.data.batches import Batches
from fedssl.errors import ConfigError
from fedssl.federation import load_federation
from fedssl.functional.quality import CorrelationSums, gate
from fedssl.methods import load_config, method_of
from fedssl.methods.quality_masks import MaskSource
from fedssl.methods.quality_predictor import (
    GateTest,
    PredictorTraining,
    held_out_cases,
    predictor_of,
)
from fedssl.seeds import generators
from fedssl.site import Site
from fedssl.types import Download, LabeledBatch, Losses, Output, Role, Task


@pytest.fixture(scope="module")
def site(tmp_path_factory, prepared_cache):
    folder = tmp_path_factory.mktemp("gate")
    file = write_federation(folder, {"north": "labeled"}, images=12)
    run = configured().model_copy(
        update={"federation": str(file), "cache_dir": str(prepared_cache)}
    )
    federation = load_federation(run)
    return Site(federation.sites[0], federation.task, run, folder / "state")


def test_the_gate_counts_five_masks_of_each_image_that_was_held_out(guided_setup, site):
    setup = guided_setup(role=Role.LABELED)
    test = GateTest(setup)
    test.begin(Download("r", 0, "gate", "north"), site.data)
    sums = test.knowledge()
    assert {k: (v.shape, v.dtype) for k, v in sums.items()} == {
        "normal": ((6,), torch.float64),
        "blackout": ((6,), torch.float64),
    }
    assert sums["normal"][0] == 5 * 2 * len(held_out_cases(setup, site.data))


def test_whole_subjects_are_held_out_and_the_predictor_never_sees_them(
    guided_setup, site, monkeypatch
):
    setup, data = guided_setup(role=Role.LABELED), site.data
    held = set(held_out_cases(setup, data))
    subjects = {case: site.prepared.cases[case].subject for case in data.labeled}
    assert 0 < len(held) < len(data.labeled)
    assert {subjects[c] for c in held}.isdisjoint(subjects[c] for c in set(subjects) - held)
    clock = {"quality_weak": 0.0, "quality_lr": 1.0}
    training = PredictorTraining(setup)
    training.begin(Download("r", 0, "predictor", "north", clock=clock), data)
    seen, original = set(), MaskSource.draw

    def watched(self, batch):
        seen.update(batch.case.tolist())
        return original(self, batch)

    monkeypatch.setattr(MaskSource, "draw", watched)
    rng = generators(0, "batches")
    batches = Batches(data, site.run, site.task, rng.numpy, rng.torch)
    for _ in range(10):
        training.training_step(batches.next_labeled(), None)
    assert seen == set(data.labeled) - held


def test_a_step_with_held_out_images_only_is_skipped(guided_setup, site):
    setup, data = guided_setup(role=Role.LABELED), site.data
    clock = {"quality_weak": 0.0, "quality_lr": 1.0}
    training = PredictorTraining(setup)
    training.begin(Download("r", 0, "predictor", "north", clock=clock), data)
    case = held_out_cases(setup, data)[0]
    batch = LabeledBatch(
        data.image(case)[None], data.label(case)[None], torch.tensor([case], dtype=torch.int64)
    )
    assert training.training_step(batch, None) == Losses()


def test_a_predictors_round_is_fifty_masks_of_each_image(guided_setup, site):
    clock = {"quality_weak": 0.0, "quality_lr": 0.5}
    for keys, steps in (({}, 50 * site.data.num_labeled / 16), ({"predictor_steps": 3}, 3)):
        setup = guided_setup(role=Role.LABELED, **keys)
        training = PredictorTraining(setup)
        training.begin(Download("r", 0, "predictor", "north", clock=clock), site.data)
        recipe = training.recipe(list(predictor_of(setup.model).parameters()))
        assert recipe.steps == math.ceil(steps)
        assert recipe.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 3e-4)
        assert recipe.clip_norm == 1.0


def test_a_gate_on_cut_out_patches_sees_patches(guided_setup, site):
    setup = guided_setup(role=Role.LABELED)
    setup = replace(setup, run=setup.run.model_copy(update={"patch_size": "16"}))
    images = GateTest(setup)._images(site.data, site.data.labeled)
    assert {tuple(image.shape) for _, image, _ in images} == {(3, 16, 16)}
    assert {mask.shape for _, _, mask in images} == {(2, 16, 16)}
    assert np.mean([mask.any() for _, _, mask in images]) > 0


def test_a_missing_file_of_pretrained_weights_is_named(tmp_path: Path, guided_setup):
    keys = {**TINY, "method": "denoise", "quality.guide": True, "quality.backbone": "resnet18"}
    run = load_config({**keys, "quality.pretrained": str(tmp_path / "none.safetensors")})
    method = method_of(run)
    from fedssl.methods.base import ServerSetup

    with pytest.raises(ConfigError, match="no such file at the coordinator"):
        method.server(ServerSetup(run.method_config, run, FUNDUS, {}, {"shared": []}))


def pictured(seed):
    """A labeled batch of squares somewhere, whose pictures show their masks."""
    rng = np.random.default_rng(seed)
    label = torch.zeros((8, 32, 32), dtype=torch.int64)
    for sample in label:
        (row, column), size = rng.integers(0, 18, 2), int(rng.integers(8, 15))
        sample[row : row + size, column : column + size] = 1
    noise = torch.randn((8, 1, 32, 32), generator=torch.Generator().manual_seed(seed))
    return LabeledBatch(2.0 * label[:, None] - 1 + 0.3 * noise, label, 8 * seed + torch.arange(8))


@pytest.mark.slow
def test_a_trained_predictor_passes_the_gate_that_a_random_one_does_not(guided_setup):
    task = Task("squares", ("background", "square"), "2d", Output.EXCLUSIVE, 1)
    setup = guided_setup(task, width=16, dropout=0.15)
    predictor, source = predictor_of(setup.model), MaskSource(setup, 0.0)
    optimizer = torch.optim.AdamW(predictor.parameters(), 2e-3, weight_decay=5e-4)

    def correlations():
        normal, black = CorrelationSums(), CorrelationSums()
        predictor.eval()
        with torch.no_grad():
            for seed in range(1000, 1010):
                drawn = source.draw(pictured(seed))
                scores = predictor(drawn.image, drawn.mask)
                normal += CorrelationSums.of(scores, drawn.quality)
                blank = predictor(torch.zeros_like(drawn.image), drawn.mask)
                black += CorrelationSums.of(scores, blank)
        return normal, black

    assert not gate(*correlations())
    for seed in range(300):
        predictor.train()
        drawn = source.draw(pictured(seed))
        loss = smooth_l1_loss(predictor(drawn.image, drawn.mask), drawn.quality)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert gate(*correlations())
