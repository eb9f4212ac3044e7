"""Reference labels from hand-made features."""

from __future__ import annotations

import math

import pytest
import torch
from reference_banks import EYE
from tiny_federations import TINY

from fedssl.functional.clustering import IGNORE
from fedssl.functional.matching import match, soft_labels
from fedssl.memory import FileMemory
from fedssl.methods import load_config
from fedssl.methods.base import LocalSetup
from fedssl.methods.reference import METHOD
from fedssl.methods.reference_labels import stored_proposal, surer
from fedssl.methods.reference_sources import _weak_view, pool_of
from fedssl.methods.retrieval import (
    Look,
    Proposal,
    References,
    RetrievalConfig,
    look_at,
    propose,
)
from fedssl.seeds import generators
from fedssl.types import Output, Role, Task, UnlabeledBatch

CLASSES = ("background", "disc", "cup")
SLICES = Task("s", ("background", "prostate"), "slices", Output.EXCLUSIVE, 1)


def quadrants():
    """A 2 x 2 grid whose cells point to classes 0, 1, 2 and between 1 and 2; a 4 x 4 image."""
    cells = torch.stack([EYE[0], EYE[1], EYE[2], EYE[1] + EYE[2]])
    features = cells.T.reshape(1, 4, 2, 2)
    prob = torch.zeros(1, 3, 4, 4)
    prob[:, 0] = 1.0  # the model sees background everywhere, and is sure
    return Look(features, prob)


REFERENCES = References(EYE[:3], torch.tensor([0, 1, 2]))


def blocks(rows):
    return torch.tensor([rows]).repeat_interleave(2, 1).repeat_interleave(2, 2)


def test_cells_take_the_nearest_label_and_the_spec_s_weight():
    between = 1 - math.log(2) / math.log(3)  # two references are equally near, for k = 1 too
    for k in (1, 2):
        found = propose(quadrants(), REFERENCES, RetrievalConfig(k=k))
        assert torch.equal(found.label, blocks([[0, 1], [2, 1]]))
        assert found.weight[0, 3, 3].item() == pytest.approx(between, abs=1e-5)
    found = propose(quadrants(), References(EYE[:2], torch.tensor([0, 1])), RetrievalConfig(k=1))
    assert found.weight[0, 0, 0] == 1


def test_the_exponential_form_of_the_weight():
    config = RetrievalConfig(k=2, weight_form="exp")
    assert propose(quadrants(), REFERENCES, config).weight[0, 3, 3].item() == pytest.approx(
        0.5, abs=1e-5
    )


def test_labels_below_the_smallest_weight_count_nothing():
    config = RetrievalConfig(k=2, min_weight=0.5)
    weight = propose(quadrants(), REFERENCES, config).weight
    assert weight[0, 3, 3] == 0
    assert weight[0, 0, 0] > 0.9


def test_pixels_where_the_model_disagrees_count_nothing_if_asked_for():
    found = propose(quadrants(), REFERENCES, RetrievalConfig(k=1, agree_with_model=True))
    assert torch.equal(found.weight, blocks([[1.0, 0.0], [0.0, 0.0]]))


def test_only_uncertain_pixels_are_labeled_by_references_if_asked_for():
    look = quadrants()
    look.prob[:, :, 2:] = torch.tensor([0.5, 0.3, 0.2])[:, None, None]
    config = RetrievalConfig(k=2, apply_to="uncertain", certain=0.9)
    found = propose(look, REFERENCES, config)
    assert torch.equal(found.label, blocks([[0, 0], [2, 1]]))
    assert torch.equal(found.weight[:, :2], torch.ones(1, 2, 4))
    assert found.weight[0, 3, 3] < 0.5


def test_the_soft_readout_is_attention_over_the_nearest():
    config = RetrievalConfig(k=2, readout="soft", readout_temperature=0.1)
    found = propose(quadrants(), REFERENCES, config)
    assert found.soft is not None
    torch.testing.assert_close(found.soft[0, :, 3, 3], torch.tensor([0.0, 0.5, 0.5]))
    sharp = 1 / (1 + 2 * math.exp(-10))  # the other two are equally far
    assert found.soft[0, 1, 0, 3].item() == pytest.approx(sharp, abs=1e-5)
    assert torch.equal(found.soft.argmax(1)[0, :2], found.label[0, :2])


def test_soft_labels_do_not_depend_on_chunks_or_on_the_bank_s_order():
    rng = torch.Generator().manual_seed(0)
    queries = torch.randn((50, 6), generator=rng)
    bank = torch.randn((20, 6), generator=rng)
    labels = torch.randint(3, (20,), generator=rng)
    whole = soft_labels(queries, bank, labels, 3, k=5)
    torch.testing.assert_close(whole.sum(1), torch.ones(50))
    torch.testing.assert_close(soft_labels(queries, bank, labels, 3, k=5, chunk=7), whole)
    order = torch.randperm(20, generator=rng)
    torch.testing.assert_close(soft_labels(queries, bank[order], labels[order], 3, k=5), whole)


@pytest.mark.parametrize("readout", ["nearest", "soft"])
def test_references_of_a_similar_site_count_e_times_whatever_the_temperature(readout):
    own = References(EYE[1:3], torch.tensor([1, 2]), torch.tensor([1.0, 0.0]))
    config = RetrievalConfig(k=2, readout=readout, readout_temperature=0.02)
    found = propose(quadrants(), own, config)
    assert found.label[0, 3, 3] == 1
    votes = torch.tensor([math.e, 1.0]) / (math.e + 1.0)
    if readout == "soft":
        torch.testing.assert_close(found.soft[0, 1:, 3, 3], votes)
    else:
        entropy = -(votes * votes.log()).sum().item()
        assert found.weight[0, 3, 3].item() == pytest.approx(1 - entropy / math.log(3), abs=1e-5)


def test_a_bias_multiplies_the_evidence_of_a_reference():
    query, bank, labels = EYE[:1] + EYE[1:2], EYE[:2], torch.tensor([0, 1])
    tau = 0.1
    bias = torch.tensor([0.0, tau * math.log(3.0)])
    found = match(query, bank, labels, 2, k=2, tau=tau, bias=bias)
    p = torch.tensor([0.25, 0.75])
    assert found.label.tolist() == [1]
    expected = 1 + float((p * p.log()).sum()) / math.log(2)
    assert found.weight.item() == pytest.approx(expected, abs=1e-5)


def test_a_pool_holds_pure_cells_and_at_most_its_cap_of_each_class():
    label = torch.zeros(2, 8, 8, dtype=torch.int64)
    label[:, :, 3:] = 1  # a column of 2 x 2 cells is half and half
    features = torch.randn(2, 4, 8, 8)
    config = RetrievalConfig(grid=4, pool_per_class=6)
    pool = pool_of(features, label, config, 3, torch.Generator().manual_seed(0))
    assert pool is not None
    assert torch.bincount(pool.labels).tolist() == [6, 6]
    config = RetrievalConfig(grid=4, pool_per_class=100)
    pool = pool_of(features, label, config, 3, torch.Generator().manual_seed(0))
    assert torch.bincount(pool.labels).tolist() == [8, 16]
    outside = torch.full_like(label, IGNORE)
    assert pool_of(features, outside, config, 3, torch.Generator()) is None


def test_of_two_proposals_the_surer_one_wins_at_each_pixel():
    a = Proposal(torch.tensor([[[1, 1]]]), torch.tensor([[[0.9, 0.2]]]))
    b = Proposal(torch.tensor([[[2, 2]]]), torch.tensor([[[0.5, 0.4]]]))
    both = surer(a, b)
    assert both.label.tolist() == [[[1, 2]]]
    assert both.weight.flatten().tolist() == pytest.approx([0.9, 0.4])
    assert surer(a, None) is a
    assert surer(None, b) is b
    assert surer(None, None) is None


def test_stored_maps_become_the_proposal_they_were_made_of():
    stored = {
        "pseudo": torch.tensor([[[[1, 0, 0]], [[0, 1, 0]]]], dtype=torch.uint8),
        "weight": torch.tensor([[[[255, 51, 0]]]], dtype=torch.uint8),
    }
    found = stored_proposal(UnlabeledBatch({}, stored, torch.zeros(1)))
    assert found.label.tolist() == [[[1, 2, 0]]]
    assert found.weight.flatten().tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert found.soft is None


@pytest.fixture
def setup(tmp_path):
    def make(task=SLICES, **keys):
        flat = {**TINY, "method": "reference", **keys}
        run = load_config(flat)
        torch.manual_seed(0)
        return LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=METHOD.build_model(run, task),
            memory=FileMemory(tmp_path, 0, 1),
            rng=generators(0, "test"),
            device=torch.device("cpu"),
            role=Role.MIXED,
        )

    return make


@pytest.mark.parametrize("width", [24, 32])
def test_a_volume_is_looked_at_slice_by_slice(setup, width):
    surroundings = setup()
    image = torch.randn(1, 5, 16, width)
    look = look_at(surroundings, surroundings.model, image, RetrievalConfig(grid=8))
    assert look.features.shape == (5, 4, 8, 8)
    assert look.prob.shape == (5, 2, 16, width)
    with torch.no_grad():
        out = surroundings.model.eval()(image.transpose(0, 1)[3:4])
    torch.testing.assert_close(look.prob[3:4], torch.softmax(out.logits, 1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(out.features, (8, 8))
    torch.testing.assert_close(look.features[3:4], pooled)


def test_all_slices_of_a_weak_view_move_alike_and_what_comes_in_is_ignored(setup):
    keys = {"augment.translate": 0.5, "augment.rotate": 0, "augment.scale": 0}
    surroundings = setup(**keys, **{"augment.flip": False})
    image = torch.rand(1, 1, 16, 16).expand(1, 4, 16, 16) + 1
    label = torch.ones(4, 16, 16, dtype=torch.int64)
    seen, mask = _weak_view(surroundings, image, label)
    assert seen.shape == image.shape
    assert torch.equal(seen[:, 0], seen[:, 3])
    assert set(mask.unique().tolist()) == {IGNORE, 1}
    assert torch.equal(mask[0], mask[3])
