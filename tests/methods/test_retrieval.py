"""Reference labels from hand-made features, and the bank on its way."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from tiny_federations import TINY

from fedssl.errors import ConfigError
from fedssl.functional.clustering import IGNORE, Bank
from fedssl.functional.matching import match, soft_labels
from fedssl.memory import FileMemory
from fedssl.methods import load_config
from fedssl.methods.base import LocalSetup
from fedssl.methods.reference import METHOD
from fedssl.methods.reference_bank import (
    bank_fault,
    bank_nbytes,
    collect,
    missing_classes,
    pack_bank,
    payload,
    union,
    unpack_bank,
)
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
from fedssl.types import Output, Role, Task, UnlabeledBatch, Upload

CLASSES = ("background", "disc", "cup")
SLICES = Task("s", ("background", "prostate"), "slices", Output.EXCLUSIVE, 1)
EYE = torch.eye(4)


def bank_of(labels, counts=None, vectors=None):
    labels = torch.tensor(labels, dtype=torch.int64)
    counts = torch.tensor(counts) if counts else torch.full_like(labels, 20)
    return Bank(EYE[labels] if vectors is None else vectors, labels, counts)


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
    found = propose(quadrants(), REFERENCES, RetrievalConfig(k=1))
    assert torch.equal(found.label, blocks([[0, 1], [2, 1]]))
    assert torch.equal(found.weight, torch.ones(1, 4, 4))
    found = propose(quadrants(), REFERENCES, RetrievalConfig(k=2))
    between = 1 - math.log(2) / math.log(3)
    assert found.weight[0, 3, 3].item() == pytest.approx(between, abs=1e-5)


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
    sharp = 1 / (1 + math.exp(-10))
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


def test_a_bank_survives_its_journey():
    bank = bank_of([0, 1, 2], [5, 6, 7])
    arrays = pack_bank(bank, 9)
    found = unpack_bank(arrays)
    assert found.round == 9
    assert torch.equal(found.bank.vectors, bank.vectors)
    assert torch.equal(found.bank.labels, bank.labels)
    assert torch.equal(found.bank.counts, bank.counts)
    assert sum(a.numel() * a.element_size() for a in arrays.values()) == bank_nbytes(3, 4)
    assert unpack_bank({}) is None
    assert unpack_bank(pack_bank(bank_of([]), 9)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"bank_round": torch.tensor(4, dtype=torch.int32)}, "made in round 5, not 6"),
        ({"bank_labels": torch.tensor([0, 1], dtype=torch.uint8)}, "[3, 2, 3] entries"),
        ({"bank_labels": torch.tensor([0, 1, 3], dtype=torch.uint8)}, "out of range"),
        ({"bank_counts": torch.tensor([5, 0, 7], dtype=torch.int32)}, "out of range"),
        ({"bank_vectors": 2 * EYE[:3].half()}, "unit length"),
    ],
)
def test_a_bank_that_cannot_be_used_is_named(change, words):
    arrays = {**pack_bank(bank_of([0, 1, 2], [5, 6, 7]), 5), **change}
    fault = bank_fault(arrays, num_classes=3, round_=5, largest=10)
    assert words in fault
    assert bool(words) == bool(fault)
    assert "incomplete" in bank_fault({}, num_classes=3, round_=5, largest=10)
    too_many = bank_fault(arrays, num_classes=3, round_=5, largest=2)
    assert words in too_many or "up to 2" in too_many


def uploads(*banks):
    return [
        Upload(f"s{i}", Role.LABELED, 5, "bank", knowledge=bank) for i, bank in enumerate(banks)
    ]


def gathered(*banks, previous=None):
    return collect(
        uploads(*banks),
        5,
        classes=CLASSES,
        previous=previous or {},
        largest=100,
        k_max=100,
        by_site=False,
    )


def test_a_bank_of_another_round_is_left_out_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        found = gathered(pack_bank(bank_of([0, 1, 2]), 5), pack_bank(bank_of([1, 1]), 4))
    assert found["bank_labels"].tolist() == [0, 1, 2]
    assert int(found["bank_round"]) == 5
    assert "bank of site s1 is not used: it was made in round 5, not 6" in caplog.text


def test_a_class_without_references_is_named_once(caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        first = gathered(pack_bank(bank_of([0, 1]), 5))
        gathered(pack_bank(bank_of([0, 1]), 5), previous=first)
    assert caplog.text.count("No labeled site has references of cup") == 1
    assert missing_classes(first, CLASSES) == ["cup"]
    assert missing_classes({}, CLASSES) == list(CLASSES)


def test_a_union_that_is_too_large_is_clustered_again():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn((30, 4), generator=rng), dim=1)
    bank = bank_of([0] * 20 + [1] * 10, vectors=vectors)
    found = union([bank, bank], 5, k_max=12, num_classes=3, by_site=False)
    assert torch.bincount(found["bank_labels"].long()).tolist() == [8, 4]
    assert int(found["bank_counts"].sum()) == 2 * 30 * 20
    assert "bank_source" not in found
    assert union([], 5, k_max=12, num_classes=3, by_site=False) == {}


def test_by_site_every_site_keeps_an_equal_share_and_its_number():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn((30, 4), generator=rng), dim=1)
    large, small = bank_of([0] * 20 + [1] * 10, vectors=vectors), bank_of([0, 2])
    found = union([large, small], 5, k_max=12, num_classes=3, by_site=True)
    assert torch.bincount(found["bank_source"]).tolist() == [6, 2]
    assert found["bank_labels"][found["bank_source"] == 1].tolist() == [0, 2]


def test_more_classes_than_a_byte_can_name_are_refused():
    run = load_config({"method": "reference"})
    many = replace(SLICES, classes=tuple(f"c{i}" for i in range(300)))
    with pytest.raises(ConfigError, match="256"):
        payload(run, many, {})
