"""What guidance does to the terms of one step, and what the predictor is trained on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_federations import TINY, write_federation
from torch.nn.functional import smooth_l1_loss

from fedssl.data.batches import Batches
from fedssl.errors import ConfigError, TrainingError
from fedssl.federation import load_federation
from fedssl.functional.consistency import hard_label, probabilities
from fedssl.functional.labels import foreground_targets
from fedssl.functional.losses import reduce_term
from fedssl.functional.quality import CorrelationSums, gate, image_quality, quality_weights
from fedssl.memory import FileMemory
from fedssl.methods import METHODS, load_config, method_of
from fedssl.methods.base import LocalSetup
from fedssl.methods.quality import guide
from fedssl.methods.quality_guide import Guidance
from fedssl.methods.quality_masks import MaskSource, WeakModels, snapshot_file
from fedssl.methods.quality_predictor import (
    GateTest,
    PredictorTraining,
    held_out_cases,
    predictor_of,
)
from fedssl.methods.quality_rule import snapshot_rounds
from fedssl.seeds import generators
from fedssl.site import Site
from fedssl.types import Download, LabeledBatch, Losses, Output, Role, Task, Term

FUNDUS = Task("t", ("background", "disc", "cup"), "2d", Output.NESTED, 3)
VOLUMES = Task("v", ("background", "prostate"), "3d", Output.EXCLUSIVE, 1)


def configured(**keys):
    flat = {**TINY, "batch-size": 4, "method": "denoise", "quality.guide": True}
    flat |= {"quality.width": 4, "quality.dropout": 0.0}
    return load_config({**flat, **{k.replace("__", "."): v for k, v in keys.items()}})


@pytest.fixture
def build(tmp_path):
    def make(task=FUNDUS, role=Role.UNLABELED, **keys):
        run = configured(**{f"quality__{k.replace('_', '-')}": v for k, v in keys.items()})
        torch.manual_seed(0)
        return LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=method_of(run).build_model(run, task),
            memory=FileMemory(tmp_path / "memory", 0, 5),
            rng=generators(0, "test"),
            device=torch.device("cpu"),
            role=role,
        )

    return make


def term(task=FUNDUS, batch=4, seed=0):
    """A term of random maps, with a leaf for the student's probabilities."""
    rng = torch.Generator().manual_seed(seed)
    space = (32, 32) if task.mode == "2d" else (4, 32, 32)
    foreground = task.num_classes - 1
    prob = torch.rand((batch, foreground, *space), generator=rng)
    return Term(
        "pseudo",
        (prob.flatten(1).mean(1) + torch.arange(batch)).requires_grad_(),
        torch.arange(1.0, batch + 1),
        scale=0.5,
        image=torch.randn((batch, task.channels, *space), generator=rng),
        pseudo_mask=(prob > 0.5).to(torch.uint8),
        student_prob=(0.5 * prob + 0.1).requires_grad_(),
    )


def scores(setup, found):
    with torch.no_grad():
        return predictor_of(setup.model).eval()(found.image, found.pseudo_mask)


def score_always(setup, quality):
    """Let the predictor give every mask the same score."""
    last = predictor_of(setup.model).head[-2]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, math.log(quality / (1 - quality)))


def value(losses):
    return sum(reduce_term(t) for t in losses.unsupervised)


@pytest.mark.parametrize("task", [FUNDUS, VOLUMES])
def test_a_term_becomes_the_mean_weighted_by_predicted_quality(build, task):
    setup, found = build(task, threshold=0.0, gamma=3.0), term(task)
    guided = Guidance(setup).guide(Losses(None, [found]))
    weights = image_quality(scores(setup, found), found.pseudo_mask).pow(3.0)
    assert weights.std() > 0
    expected = 0.5 * (weights * found.numerator).sum() / (weights * found.denominator).sum()
    torch.testing.assert_close(value(guided), expected)


def test_a_common_factor_of_all_scores_cancels(build):
    found = term()
    plain = reduce_term(found)
    for quality in (0.3, 0.9):
        setup = build(threshold=0.0)
        score_always(setup, quality)
        guided = Guidance(setup).guide(Losses(None, [found]))
        torch.testing.assert_close(value(guided), plain)


def test_divided_by_the_batch_a_common_factor_stays(build):
    setup, found = build(threshold=0.0, normalise="batch"), term()
    score_always(setup, 0.5)
    guided = Guidance(setup).guide(Losses(None, [found]))
    torch.testing.assert_close(value(guided), 0.25 * reduce_term(found))


def test_in_a_batch_of_one_the_weight_still_counts(build):
    setup, found = build(threshold=0.0), term(batch=1)
    setup = replace(setup, run=setup.run.model_copy(update={"batch_size": 1}))
    score_always(setup, 0.5)
    guided = Guidance(setup).guide(Losses(None, [found]))
    torch.testing.assert_close(value(guided), 0.25 * reduce_term(found))


def test_samples_below_the_threshold_get_no_gradient(build):
    setup, found = build(), term()
    quality = image_quality(scores(setup, found), found.pseudo_mask)
    between = float(quality.sort().values[1:3].mean())
    setup = build(threshold=between)
    value(Guidance(setup).guide(Losses(None, [found]))).backward()
    assert ((found.numerator.grad != 0) == (quality >= between)).all()
    assert found.numerator.grad.count_nonzero() == 2


def test_where_no_pseudo_label_is_good_enough_an_unlabeled_site_skips_the_step(build):
    setup = build(threshold=1.0)
    guidance = Guidance(setup)
    guided = guidance.guide(Losses(torch.ones(()), [term()]))
    assert guided.supervised is None
    assert list(guided.unsupervised) == []
    assert guidance.metrics()["quality/used"] == 0.0


def test_where_no_pseudo_label_is_good_enough_a_mixed_site_learns_from_its_masks(build):
    setup, supervised = build(role=Role.MIXED, threshold=1.0), torch.ones(())
    guided = Guidance(setup).guide(Losses(supervised, [term()]))
    assert guided.supervised is supervised
    assert list(guided.unsupervised) == []


def test_weights_of_zero_give_zero_and_not_nan():
    weights = quality_weights(torch.tensor([0.2, 0.4]))
    zero = Term("t", weights * torch.ones(2), weights * torch.ones(2))
    assert reduce_term(zero).item() == 0.0


@pytest.mark.parametrize("mask", ["soft", "ste"])
def test_qar_moves_the_student_and_not_the_predictor(build, mask):
    setup, found = build(mode="both", threshold=0.0, qar_mask=mask), term()
    setup.model.requires_grad_(False)
    before = {k: v.clone() for k, v in predictor_of(setup.model).state_dict().items()}
    guided = Guidance(setup).guide(Losses(None, [found]))
    assert [t.name for t in guided.unsupervised] == ["pseudo", "qar"]
    value(guided).backward()
    assert found.student_prob.grad.abs().sum() > 0
    assert all(p.grad is None for p in predictor_of(setup.model).parameters())
    after = predictor_of(setup.model).state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_qar_is_one_minus_the_predicted_quality_at_its_share_of_the_terms_scale(build):
    setup, found = build(mode="both", beta_qar=0.2), term()
    qar = Guidance(setup).guide(Losses(None, [found])).unsupervised[-1]
    with torch.no_grad():
        score = predictor_of(setup.model).eval()(found.image, found.student_prob)
    torch.testing.assert_close(reduce_term(qar), 0.2 * 0.5 * (1 - score.mean()))


def test_with_a_straight_through_gradient_the_predictor_sees_hard_masks(build):
    setup, found = build(mode="both", qar_mask="ste"), term()
    qar = Guidance(setup).guide(Losses(None, [found])).unsupervised[-1]
    outer = found.student_prob[:, :1] > 0.5
    hard = torch.cat((outer, outer & (found.student_prob[:, 1:] > 0.5)), 1).float()
    with torch.no_grad():
        score = predictor_of(setup.model).eval()(found.image, hard)
    torch.testing.assert_close(reduce_term(qar), 0.04 * 0.5 * (1 - score.mean()))


def test_qar_alone_leaves_the_methods_own_terms_out(build):
    setup = build(mode="both")
    setup.run.quality.__dict__["mode"] = "qar"
    guided = Guidance(setup).guide(Losses(None, [term()]))
    assert [t.name for t in guided.unsupervised] == ["qar"]


def test_the_predictor_is_in_eval_mode_when_it_scores_and_in_its_own_mode_after(build):
    setup = build(threshold=0.0, dropout=0.9)
    setup.model.train()
    first, second = (Guidance(setup) for _ in range(2))
    for guidance in (first, second):
        guidance.guide(Losses(None, [term()]))
    assert first.metrics() == second.metrics()
    assert predictor_of(setup.model).training


def test_a_term_without_a_pseudo_label_cannot_be_guided(build):
    bare = replace(term(), image=None)
    with pytest.raises(TrainingError, match=r"'denoise' cannot be guided.*\(pseudo\)"):
        Guidance(build()).guide(Losses(None, [bare]))
    with pytest.raises(TrainingError, match=r"QAR.*student's probabilities.*'qw'"):
        Guidance(build(mode="both")).guide(Losses(None, [replace(term(), student_prob=None)]))


def test_a_step_without_terms_stays_as_it_is(build):
    losses = Losses(torch.ones(()), [])
    assert Guidance(build(mode="both")).guide(losses) is losses


@pytest.mark.parametrize("method", ["denoise", "mutual"])
def test_the_base_network_starts_from_the_weights_that_it_has_without_a_predictor(method):
    keys = {**TINY, "method": method}
    plain, guided = load_config(keys), load_config({**keys, "quality.guide": True})
    models = []
    for run in (plain, guided):
        torch.manual_seed(7)
        models.append(method_of(run).build_model(run, method_of(run).task(FUNDUS)))
    ours, theirs = models[1].state_dict(), models[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    parts = method_of(guided).parts(models[1])
    assert {k: v for k, v in parts.items() if k != "predictor"} == METHODS[method].parts(models[0])
    assert set(parts["predictor"]) == set(ours) - set(theirs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "fedavg"}, "nothing to guide"),
        ({"quality.predictor-rounds": 0}, "takes 0 of the 4"),
        ({"quality.predictor-rounds": 4}, "takes 4 of the 4"),
        ({"denoise.warmup-rounds": 3}, r"'rounds' = 3.*1 of the run's 4 rounds train"),
        ({"quality.mode": "qar"}, "'denoise' has no proximal term.*'qw' or 'both'"),
        ({"method": "mean_teacher", "quality.mode": "qar"}, "Set 'mean_teacher.proximal' above 0"),
        ({"quality.pretrained": "x.safetensors"}, "for quality.backbone = 'resnet18'"),
        (
            {f"quality.p-{name}": 0 for name in ("identity", "single", "chained", "heavy")}
            | {"quality.p-catastrophic": 0, "quality.p-blob": 0},
            "one besides 'quality.p-cross-image'",
        ),
        ({"quality.gamma": -1}, "'quality.gamma'"),
    ],
)
def test_a_contradiction_is_refused_with_its_reason(keys, message):
    with pytest.raises(ConfigError, match=message):
        load_config({**TINY, "method": "denoise", "quality.guide": True, **keys})


def test_qar_alone_is_allowed_with_a_proximal_term():
    keys = {**TINY, "method": "mean_teacher", "quality.guide": True, "quality.mode": "qar"}
    assert load_config({**keys, "mean_teacher.proximal": 0.01}).quality.mode == "qar"


def test_the_method_quality_is_guided_without_being_told():
    run = load_config({**TINY, "method": "quality"})
    assert method_of(run) is METHODS["quality"]
    assert run.quality.guide is False
    plain = load_config({**TINY, "method": "denoise"})
    assert method_of(plain) is METHODS["denoise"]


def test_guide_keeps_the_roles_that_a_method_has():
    guided = guide(replace(METHODS["denoise"], mixed=None))
    assert guided.mixed is None
    assert guided.unlabeled is not None


def test_snapshots_are_taken_at_shares_of_the_warmup():
    assert snapshot_rounds(100) == [5, 15, 25, 50, 75]
    assert snapshot_rounds(8) == [1, 2, 4, 6]
    assert snapshot_rounds(1) == snapshot_rounds(0) == []


def labeled_batch(task=FUNDUS, batch=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    space = (32, 32) if task.mode == "2d" else (8, 32, 32)
    label = torch.zeros((batch, *space), dtype=torch.int64)
    for i in range(batch):
        label[i, ..., 6 + i : 22, 5:20] = 1
    image = torch.randn((batch, task.channels, *space), generator=rng)
    return LabeledBatch(image, label, torch.arange(batch))


ONLY = {"p_identity": 0, "p_single": 0, "p_chained": 0, "p_cross_image": 0, "p_heavy": 0}
ONLY |= {"p_catastrophic": 0, "p_blob": 0}


@pytest.mark.parametrize("task", [FUNDUS, VOLUMES])
def test_untouched_masks_have_quality_one_and_belong_to_their_pictures(build, task):
    setup = build(task, **{**ONLY, "p_identity": 1}, masks_per_step=5)
    batch = labeled_batch(task)
    graded = MaskSource(replace(setup, task=replace(task, classes=task.classes[:2])), 0.0)
    drawn = graded.draw(batch)
    assert drawn.image.shape == (15, task.channels, 32, 32)
    assert (drawn.quality == 1).all()
    targets = foreground_targets(batch.label, 1, task.output)
    for n in range(15):
        sample = n // 5
        assert torch.equal(
            drawn.mask[n], targets[sample, :, 0] if task is VOLUMES else targets[sample]
        )
        found = [torch.equal(drawn.image[n], plane) for plane in pictures(batch.image[sample])]
        assert any(found)


def pictures(image):
    return image.transpose(0, 1) if image.ndim == 4 else [image]


def test_quality_is_the_dice_of_what_was_drawn(build):
    setup, batch = build(masks_per_step=20), labeled_batch()
    drawn = MaskSource(setup, 0.3).draw(batch)
    truth = foreground_targets(batch.label, 2, Output.NESTED).repeat_interleave(20, 0)
    overlap, total = (drawn.mask * truth).sum((2, 3)), (drawn.mask + truth).sum((2, 3))
    expected = torch.where(total > 0, 2 * overlap / total.clamp_min(1), 1.0)
    torch.testing.assert_close(drawn.quality, expected)
    assert 0.0 < drawn.quality.mean() < 1.0
    assert set(drawn.mask.unique().tolist()) <= {0.0, 1.0}


def test_masks_are_the_same_for_the_same_seed_only(build):
    setup, batch = build(), labeled_batch()
    seeds = (1, 1, 2)
    drawn = [
        MaskSource(replace(setup, rng=generators(s, "masks")), 0.2).draw(batch).mask for s in seeds
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_swapped_masks_come_from_other_images(build):
    setup, batch = build(**{**ONLY, "p_cross_image": 1, "p_single": 1e-9}), labeled_batch()
    setup = replace(setup, task=replace(FUNDUS, classes=FUNDUS.classes[:2]))
    drawn = MaskSource(setup, 0.0).draw(batch)
    truth = foreground_targets(batch.label, 1, Output.NESTED)
    for n, mask in enumerate(drawn.mask):
        assert any(torch.equal(mask, truth[i]) for i in range(3) if i != n // 4)


@pytest.mark.parametrize("task", [FUNDUS, VOLUMES])
def test_a_weak_mask_is_what_a_snapshot_predicts(build, task, tmp_path):
    setup, batch = build(task), labeled_batch(task)
    base = {k: v for k, v in setup.model.state_dict().items() if not k.startswith("predictor.")}
    other = {**base, "head.bias": torch.full_like(base["head.bias"], 5.0)}
    other["head.bias"][0] *= task.output == Output.NESTED
    FileMemory(tmp_path / "memory", 0, 1).save(snapshot_file(3), other)
    weak = WeakModels(setup)
    assert len(weak) == 2
    drawn = MaskSource(setup, 1.0).draw(batch)
    predicted = [torch.from_numpy(weak.predict(i, batch.image)).float() for i in range(2)]
    model = setup.model.eval()
    with torch.no_grad():
        logits = model(batch.image).logits
    received = hard_label(probabilities(logits, task.output), task.output).float()
    assert torch.equal(predicted[1], received)
    assert not torch.equal(predicted[0], predicted[1])
    for n, mask in enumerate(drawn.mask):
        candidates = [plane for p in predicted for plane in pictures(p[n // 4])]
        assert any(torch.equal(mask, c) for c in candidates)


def test_softened_masks_are_not_binary(build):
    drawn = MaskSource(build(p_soft=1.0), 0.0).draw(labeled_batch())
    assert ((drawn.mask > 0.01) & (drawn.mask < 0.99)).any()
    assert ((drawn.quality >= 0) & (drawn.quality <= 1)).all()


@pytest.fixture(scope="module")
def site(tmp_path_factory, prepared_cache):
    folder = tmp_path_factory.mktemp("gate")
    file = write_federation(folder, {"north": "labeled"}, images=12)
    run = configured().model_copy(
        update={"federation": str(file), "cache_dir": str(prepared_cache)}
    )
    federation = load_federation(run)
    return Site(federation.sites[0], federation.task, run, folder / "state")


def test_the_gate_counts_five_masks_of_each_image_that_was_held_out(build, site):
    setup = build(role=Role.LABELED)
    test = GateTest(setup)
    test.begin(Download("r", 0, "gate", "north"), site.data)
    sums = test.knowledge()
    assert {k: (v.shape, v.dtype) for k, v in sums.items()} == {
        "normal": ((6,), torch.float64),
        "blackout": ((6,), torch.float64),
    }
    assert sums["normal"][0] == 5 * 2 * len(held_out_cases(setup, site.data))


def test_whole_subjects_are_held_out_and_the_predictor_never_sees_them(build, site, monkeypatch):
    setup, data = build(role=Role.LABELED), site.data
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


def test_a_step_with_held_out_images_only_is_skipped(build, site):
    setup, data = build(role=Role.LABELED), site.data
    clock = {"quality_weak": 0.0, "quality_lr": 1.0}
    training = PredictorTraining(setup)
    training.begin(Download("r", 0, "predictor", "north", clock=clock), data)
    case = held_out_cases(setup, data)[0]
    batch = LabeledBatch(
        data.image(case)[None], data.label(case)[None], torch.tensor([case], dtype=torch.int64)
    )
    assert training.training_step(batch, None) == Losses()


def test_a_predictors_round_is_fifty_masks_of_each_image(build, site):
    clock = {"quality_weak": 0.0, "quality_lr": 0.5}
    for keys, steps in (({}, 50 * site.data.num_labeled / 16), ({"predictor_steps": 3}, 3)):
        setup = build(role=Role.LABELED, **keys)
        training = PredictorTraining(setup)
        training.begin(Download("r", 0, "predictor", "north", clock=clock), site.data)
        recipe = training.recipe(list(predictor_of(setup.model).parameters()))
        assert recipe.steps == math.ceil(steps)
        assert recipe.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 3e-4)
        assert recipe.clip_norm == 1.0


def test_a_gate_on_cut_out_patches_sees_patches(build, site):
    setup = build(role=Role.LABELED)
    setup = replace(setup, run=setup.run.model_copy(update={"patch_size": "16"}))
    images = GateTest(setup)._images(site.data, site.data.labeled)
    assert {tuple(image.shape) for _, image, _ in images} == {(3, 16, 16)}
    assert {mask.shape for _, _, mask in images} == {(2, 16, 16)}
    assert np.mean([mask.any() for _, _, mask in images]) > 0


def test_a_missing_file_of_pretrained_weights_is_named(tmp_path: Path, build):
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
def test_a_trained_predictor_passes_the_gate_that_a_random_one_does_not(build):
    task = Task("squares", ("background", "square"), "2d", Output.EXCLUSIVE, 1)
    setup = build(task, width=16, dropout=0.15)
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
