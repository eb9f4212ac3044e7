"""What guidance does to the terms of one step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from guided import FUNDUS, VOLUMES, configured

from fedssl.errors import TrainingError
from fedssl.functional.losses import reduce_term
from fedssl.functional.quality import image_quality, quality_weights
from fedssl.methods import method_of
from fedssl.methods.quality_guide import Guidance
from fedssl.methods.quality_predictor import (
    predictor_of,
)
from fedssl.types import Losses, Role, Term


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
def test_a_term_becomes_the_mean_weighted_by_predicted_quality(guided_setup, task):
    setup, found = guided_setup(task, threshold=0.0, gamma=3.0), term(task)
    guided = Guidance(setup).guide(Losses(None, [found]))
    weights = image_quality(scores(setup, found), found.pseudo_mask).pow(3.0)
    assert weights.std() > 0
    expected = 0.5 * (weights * found.numerator).sum() / (weights * found.denominator).sum()
    torch.testing.assert_close(value(guided), expected)


def test_a_common_factor_of_all_scores_cancels(guided_setup):
    found = term()
    plain = reduce_term(found)
    for quality in (0.3, 0.9):
        setup = guided_setup(threshold=0.0)
        score_always(setup, quality)
        guided = Guidance(setup).guide(Losses(None, [found]))
        torch.testing.assert_close(value(guided), plain)


def test_divided_by_the_batch_a_common_factor_stays(guided_setup):
    setup, found = guided_setup(threshold=0.0, normalise="batch"), term()
    score_always(setup, 0.5)
    guided = Guidance(setup).guide(Losses(None, [found]))
    torch.testing.assert_close(value(guided), 0.25 * reduce_term(found))


def test_in_a_batch_of_one_the_weight_still_counts(guided_setup):
    setup, found = guided_setup(threshold=0.0), term(batch=1)
    setup = replace(setup, run=setup.run.model_copy(update={"batch_size": 1}))
    score_always(setup, 0.5)
    guided = Guidance(setup).guide(Losses(None, [found]))
    torch.testing.assert_close(value(guided), 0.25 * reduce_term(found))


def test_samples_below_the_threshold_get_no_gradient(guided_setup):
    setup, found = guided_setup(), term()
    quality = image_quality(scores(setup, found), found.pseudo_mask)
    between = float(quality.sort().values[1:3].mean())
    setup = guided_setup(threshold=between)
    value(Guidance(setup).guide(Losses(None, [found]))).backward()
    assert ((found.numerator.grad != 0) == (quality >= between)).all()
    assert found.numerator.grad.count_nonzero() == 2


def test_where_no_pseudo_label_is_good_enough_an_unlabeled_site_skips_the_step(guided_setup):
    setup = guided_setup(threshold=1.0)
    guidance = Guidance(setup)
    guided = guidance.guide(Losses(torch.ones(()), [term()]))
    assert guided.supervised is None
    assert list(guided.unsupervised) == []
    assert guidance.metrics()["quality/used"] == 0.0


def test_where_no_pseudo_label_is_good_enough_a_mixed_site_learns_from_its_masks(guided_setup):
    setup, supervised = guided_setup(role=Role.MIXED, threshold=1.0), torch.ones(())
    guided = Guidance(setup).guide(Losses(supervised, [term()]))
    assert guided.supervised is supervised
    assert list(guided.unsupervised) == []


def test_weights_of_zero_give_zero_and_not_nan():
    weights = quality_weights(torch.tensor([0.2, 0.4]))
    zero = Term("t", weights * torch.ones(2), weights * torch.ones(2))
    assert reduce_term(zero).item() == 0.0


@pytest.mark.parametrize("mask", ["soft", "ste"])
def test_qar_moves_the_student_and_not_the_predictor(guided_setup, mask):
    setup, found = guided_setup(mode="both", threshold=0.0, qar_mask=mask), term()
    setup.model.requires_grad_(False)
    before = {k: v.clone() for k, v in predictor_of(setup.model).state_dict().items()}
    guided = Guidance(setup).guide(Losses(None, [found]))
    assert [t.name for t in guided.unsupervised] == ["pseudo", "qar"]
    value(guided).backward()
    assert found.student_prob.grad.abs().sum() > 0
    assert all(p.grad is None for p in predictor_of(setup.model).parameters())
    after = predictor_of(setup.model).state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_qar_is_one_minus_the_predicted_quality_at_its_share_of_the_terms_scale(guided_setup):
    setup, found = guided_setup(mode="both", beta_qar=0.2), term()
    qar = Guidance(setup).guide(Losses(None, [found])).unsupervised[-1]
    with torch.no_grad():
        score = predictor_of(setup.model).eval()(found.image, found.student_prob)
    torch.testing.assert_close(reduce_term(qar), 0.2 * 0.5 * (1 - score.mean()))


def test_with_a_straight_through_gradient_the_predictor_sees_hard_masks(guided_setup):
    setup, found = guided_setup(mode="both", qar_mask="ste"), term()
    qar = Guidance(setup).guide(Losses(None, [found])).unsupervised[-1]
    outer = found.student_prob[:, :1] > 0.5
    hard = torch.cat((outer, outer & (found.student_prob[:, 1:] > 0.5)), 1).float()
    with torch.no_grad():
        score = predictor_of(setup.model).eval()(found.image, hard)
    torch.testing.assert_close(reduce_term(qar), 0.04 * 0.5 * (1 - score.mean()))


def test_qar_alone_leaves_the_methods_own_terms_out(guided_setup):
    setup = guided_setup(role=Role.MIXED, mode="both")
    setup.run.quality.__dict__["mode"] = "qar"
    guided = Guidance(setup).guide(Losses(None, [term()]))
    assert [t.name for t in guided.unsupervised] == ["qar"]


@pytest.mark.parametrize(
    ("role", "method", "left"),
    [
        (Role.UNLABELED, "denoise", []),
        (Role.MIXED, "denoise", ["qar"]),
        (Role.UNLABELED, "reference", ["qar"]),  # its proximal term
    ],
)
def test_where_no_pseudo_label_is_good_enough_qar_needs_an_anchor(guided_setup, role, method, left):
    setup = guided_setup(role=role, mode="both", threshold=1.0)
    proximal = method_of(configured(method=method)).config()
    run = setup.run.model_copy(update={"method": method, "method_config": proximal})
    guided = Guidance(replace(setup, run=run)).guide(Losses(None, [term()]))
    assert [t.name for t in guided.unsupervised] == left


def test_the_predictor_is_in_eval_mode_when_it_scores_and_in_its_own_mode_after(guided_setup):
    setup = guided_setup(threshold=0.0, dropout=0.9)
    setup.model.train()
    first, second = (Guidance(setup) for _ in range(2))
    for guidance in (first, second):
        guidance.guide(Losses(None, [term()]))
    assert first.metrics() == second.metrics()
    assert predictor_of(setup.model).training


def test_a_term_without_a_pseudo_label_cannot_be_guided(guided_setup):
    bare = replace(term(), image=None)
    with pytest.raises(TrainingError, match=r"'denoise' cannot be guided.*\(pseudo\)"):
        Guidance(guided_setup()).guide(Losses(None, [bare]))
    with pytest.raises(TrainingError, match=r"QAR.*student's probabilities.*'qw'"):
        Guidance(guided_setup(mode="both")).guide(
            Losses(None, [replace(term(), student_prob=None)])
        )


def test_a_step_without_terms_stays_as_it_is(guided_setup):
    losses = Losses(torch.ones(()), [])
    assert Guidance(guided_setup(mode="both")).guide(losses) is losses
