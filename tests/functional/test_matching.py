from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.functional.matching import match, soft_labels


def blobs(per_class=20, num_classes=3, channels=6, noise=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    noise_ = noise * torch.randn(len(labels), channels, generator=generator)
    return torch.eye(channels)[labels] + noise_, labels


def literal(queries, bank, labels, num_classes, k, tau):
    """One query at a time, straight from the definition."""
    found, weights = [], []
    for q in queries.double():
        distance = [1 - (q @ v).item() / (q.norm() * v.norm()).item() for v in bank.double()]
        order = sorted(range(len(bank)), key=distance.__getitem__)[:k]
        found.append(int(labels[order[0]]))
        nearest = {}
        for m in order:
            c = int(labels[m])
            nearest[c] = min(nearest.get(c, math.inf), distance[m])
        scores = [math.exp(-d / tau) for d in nearest.values()]
        p = [s / sum(scores) for s in scores]
        weights.append(1 + sum(x * math.log(x) for x in p if x > 0) / math.log(num_classes))
    return found, weights


def test_separated_clusters_give_exact_labels_and_full_weight():
    bank, labels = blobs()
    queries, truth = blobs(seed=1)
    result = match(queries, bank, labels, 3, k=16)
    assert torch.equal(result.label, truth)
    assert torch.equal(result.weight, torch.ones(60))


def test_a_point_between_two_of_four_classes_has_weight_one_half():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    result = match(torch.tensor([[2.0, 2.0]]), bank, torch.tensor([0, 3]), 4, k=2)
    assert result.weight.item() == pytest.approx(1 - math.log(2) / math.log(4), abs=1e-6)


def test_weight_by_hand_for_two_distances():
    # cosines 1 and 0.8: distances 0 and 0.2, p = softmax(0, -2)
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    result = match(torch.tensor([[5.0, 0.0]]), bank, torch.tensor([1, 0]), 2, k=2, tau=0.1)
    p = 1 / (1 + math.exp(-2))
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert result.label.item() == 1
    assert result.weight.item() == pytest.approx(1 - entropy / math.log(2), abs=1e-5)


def test_only_the_closest_reference_of_a_class_counts():
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    many = torch.cat([bank, torch.tensor([[0.6, 0.8], [0.0, 1.0]])])
    query = torch.tensor([[1.0, 0.0]])
    few = match(query, bank, torch.tensor([1, 0]), 2)
    more = match(query, many, torch.tensor([1, 0, 0, 0]), 2)
    assert few.weight.item() == pytest.approx(more.weight.item(), abs=1e-6)


def test_references_beyond_the_top_k_do_not_count():
    bank = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.8, 0.6]])
    labels = torch.tensor([1, 1, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert match(query, bank, labels, 2, k=2).weight.item() == 1.0
    assert match(query, bank, labels, 2, k=3).weight.item() < 1.0


def test_k_beyond_the_bank_uses_the_whole_bank():
    bank, labels = blobs(per_class=2)
    queries, _ = blobs(per_class=3, noise=0.5, seed=2)
    a, b = match(queries, bank, labels, 3, k=6), match(queries, bank, labels, 3, k=500)
    assert torch.equal(a.label, b.label)
    assert torch.equal(a.weight, b.weight)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 12),
    num_classes=st.integers(2, 5),
    tau=st.floats(0.02, 1.0),
)
def test_result_equals_the_definition(seed, k, num_classes, tau):
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (10,), generator=generator)
    queries = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    result = match(queries, bank, labels, num_classes, k=k, tau=tau)
    found, weights = literal(queries, bank, labels, num_classes, k, tau)
    assert result.label.tolist() == found
    assert result.weight.tolist() == pytest.approx(weights, abs=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_change_nothing(chunk):
    bank, labels = blobs(noise=0.6)
    queries, _ = blobs(noise=0.6, seed=3)
    whole = match(queries, bank, labels, 3)
    parts = match(queries, bank, labels, 3, chunk=chunk)
    assert torch.equal(whole.label, parts.label)
    assert torch.equal(whole.weight, parts.weight)


@pytest.mark.parametrize("chunk", [1, 300, 1024])
def test_a_query_gets_the_same_label_in_whatever_company(chunk):
    # Nearly parallel references of two classes: the last bit of a product decides.
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(200, 64, generator=generator)
    bank, labels = torch.cat([base, base * 1.001]), torch.arange(400) // 200
    near = base[torch.randint(0, 200, (1025,), generator=generator)]
    queries = near + 0.3 * torch.randn(near.shape, generator=generator)
    whole = match(queries, bank, labels, 2)
    parts = match(queries, bank, labels, 2, chunk=chunk)
    alone = match(queries[-1:], bank, labels, 2)
    assert torch.equal(whole.label, parts.label)
    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole.label[-1:], alone.label)


def test_a_feature_that_is_not_finite_is_not_trusted():
    queries = torch.tensor([[math.nan, 0.0], [1.0, 0.0]])
    found = match(queries, torch.eye(2), torch.tensor([0, 1]), 2, k=1)
    assert found.weight.tolist() == [0.0, 1.0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_bank_does_not_matter(seed):
    bank, labels = blobs(noise=0.6, seed=seed)
    queries, _ = blobs(noise=0.6, seed=seed + 1)
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))
    a = match(queries, bank, labels, 3)
    b = match(queries, bank[order], labels[order], 3)
    assert torch.equal(a.label, b.label)
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-6)


def test_equal_distances_go_to_the_lower_class_in_any_order():
    query, bank = torch.tensor([[1.0, 1.0]]), torch.eye(2)
    assert match(query, bank, torch.tensor([2, 1]), 3).label.item() == 1
    assert match(query, bank.flip(0), torch.tensor([1, 2]), 3).label.item() == 1


@pytest.mark.parametrize("query", [[1.0, 0.0], [0.0, 0.0]])
def test_references_as_near_as_the_kth_all_count_in_any_order(query):
    # Both references are at the same distance of the query, which is 0, or 1 for a query of no
    # length; one neighbour is asked for. Two classes of four: 1 - ln 2 / ln 4.
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for labels in ([3, 2], [2, 3]):
        found = match(torch.tensor([query]), bank, torch.tensor(labels), 4, k=1)
        assert found.label.item() == 2
        assert found.weight.item() == pytest.approx(0.5)
        soft = soft_labels(torch.tensor([query]), bank, torch.tensor(labels), 4, k=1)
        assert soft.tolist() == [[0.0, 0.0, 0.5, 0.5]]


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_reference_that_is_there_twice_ties_with_itself(chunk):
    # A matrix product may round equal columns, and rows of small chunks, differently.
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 17, generator=generator) for n in (40, 12))
    twice, labels = torch.cat([bank, bank]), torch.arange(24) // 12
    order = torch.randperm(24, generator=generator)
    for k in (1, 3):
        one = match(queries, twice, labels, 2, k=k, chunk=chunk)
        other = match(queries, twice[order], labels[order], 2, k=k)
        assert one.label.tolist() == other.label.tolist() == [0] * 40
        assert max(one.weight.max().item(), other.weight.max().item()) < 1e-6


@pytest.mark.parametrize("factor", [1e-30, 1e-13, 1e20, 1e30])
def test_lengths_beyond_the_range_of_squares_do_not_matter(factor):
    query = torch.tensor([[0.0, 1.0]])
    usual = match(query, torch.eye(2), torch.tensor([0, 1]), 2)
    assert usual.label.item() == 1
    for found in (
        match(query * factor, torch.eye(2), torch.tensor([0, 1]), 2),
        match(query, torch.eye(2) * factor, torch.tensor([0, 1]), 2),
    ):
        assert found.label.item() == 1
        assert found.weight.item() == pytest.approx(usual.weight.item(), abs=1e-6)


def test_a_tie_of_one_query_leaves_the_others_their_k():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [0.1, 1.0]])
    found = match(queries, bank, torch.tensor([1, 0, 2]), 4, k=1)
    assert found.label.tolist() == [0, 2]
    assert found.weight.tolist() == pytest.approx([0.5, 1.0])


def test_queries_and_bank_may_differ_in_precision():
    bank, labels = blobs(noise=0.6)
    queries, _ = blobs(noise=0.6, seed=3)
    fine = match(queries.double(), bank.half(), labels, 3)
    assert fine.weight.dtype == torch.float64
    assert torch.equal(fine.label, match(queries, bank.half(), labels, 3).label)
    assert match(queries, bank.double(), labels, 3).weight.dtype == torch.float64


def test_scale_of_features_does_not_matter_and_nothing_carries_gradient():
    bank, labels = blobs(noise=0.6)
    queries, _ = blobs(noise=0.6, seed=3)
    a = match(queries, bank, labels, 3)
    b = match((7 * queries).requires_grad_(), 0.1 * bank, labels, 3)
    assert torch.equal(a.label, b.label)
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-5)
    assert not b.weight.requires_grad


def test_half_precision_and_autocast_are_computed_in_single_precision():
    bank, labels = blobs(noise=0.6)
    queries, _ = blobs(noise=0.6, seed=3)
    half = match(queries.half(), bank.half(), labels, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = match(queries.half(), bank.half(), labels, 3)
    assert half.weight.dtype == torch.float32
    assert torch.equal(half.weight, cast.weight)


def test_a_class_missing_in_the_bank_is_never_assigned():
    bank, labels = blobs()
    keep = labels != 1
    queries, _ = blobs(seed=1)
    result = match(queries, bank[keep], labels[keep], 3)
    assert set(result.label.tolist()) == {0, 2}
    assert torch.isfinite(result.weight).all()


def test_no_queries_give_an_empty_result():
    bank, labels = blobs()
    result = match(bank[:0], bank, labels, 3)
    assert result.label.shape == result.weight.shape == (0,)


def test_an_empty_bank_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="bank is empty"):
        match(torch.ones(2, 3), torch.ones(0, 3), torch.ones(0, dtype=torch.long), 2)


@pytest.mark.parametrize(
    ("queries", "labels", "options", "message"),
    [
        (torch.ones(2, 4), [0, 1], {}, "features of one layer"),
        (torch.ones(2, 3), [0, 1, 1], {}, "2 bank vectors"),
        (torch.ones(2, 3), [0, 5], {}, "do not fit 3 classes"),
        (torch.ones(2, 3), [0, 1], {"k": 0}, "k=0"),
        (torch.ones(2, 3), [0, 1], {"tau": 0.0}, "tau=0.0"),
    ],
)
def test_wrong_arguments_are_named(queries, labels, options, message):
    with pytest.raises(ValueError, match=message):
        match(queries, torch.eye(3)[:2], torch.tensor(labels), 3, **options)
