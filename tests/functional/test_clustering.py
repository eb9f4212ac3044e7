from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.functional.clustering import (
    IGNORE,
    Bank,
    grid_features,
    grid_labels,
    merge_banks,
    noisy_bank,
    reference_bank,
)
from fedssl.functional.kmeans import spherical_kmeans
from fedssl.functional.matching import match


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(pixels=200, num_classes=3, modes=4, images=5, noise=0.1, channels=16, seed=0):
    """Each class has several modes; every image sees all of them."""
    directions = torch.randn(num_classes, modes, channels, generator=rng(77))
    directions = torch.nn.functional.normalize(directions, dim=2)
    labels = torch.arange(num_classes).repeat_interleave(pixels)
    mode = torch.randint(0, modes, labels.shape, generator=rng(seed))
    scatter = noise * torch.randn(len(labels), channels, generator=rng(seed + 1))
    image = torch.randint(0, images, labels.shape, generator=rng(seed + 2))
    return directions[labels, mode] + scatter, labels, image


def build(features, labels, image, num_classes=3, **options):
    return reference_bank(features, labels, image, num_classes, generator=rng(4), **options)


def test_two_directions_are_found_by_hand():
    points = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 5.0]])
    clusters = spherical_kmeans(points, 2, generator=rng())
    assert sorted(clusters.centroids.tolist()) == [[0.0, 1.0], [1.0, 0.0]]
    a = clusters.assignment.tolist()
    assert a[0] == a[1] != a[2] == a[3] == a[4]


def test_weights_pull_a_centre():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    centre = spherical_kmeans(points, 1, weights=torch.tensor([3.0, 4.0])).centroids[0]
    torch.testing.assert_close(centre, torch.tensor([0.6, 0.8]))


def test_fewer_directions_than_clusters_give_fewer_centres():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(10, 1)
    assert len(spherical_kmeans(points, 7, generator=rng()).centroids) == 2
    assert len(spherical_kmeans(points, 7).centroids) == 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 8))
def test_iterations_never_lower_the_mean_cosine(seed, k):
    points = torch.nn.functional.normalize(torch.randn(60, 4, generator=rng(seed)), dim=1)

    def quality(iterations):
        found = spherical_kmeans(points, k, iterations=iterations, generator=rng(seed))
        return (points * found.centroids[found.assignment]).sum(1).mean().item()

    scores = [quality(i) for i in (0, 1, 3, 10)]
    assert all(b >= a - 1e-6 for a, b in pairwise(scores))


def test_seeding_is_reproducible_and_depends_on_the_generator():
    points = torch.randn(300, 5, generator=rng())
    a, b, c = (spherical_kmeans(points, 9, iterations=0, generator=rng(s)) for s in (1, 1, 2))
    assert torch.equal(a.centroids, b.centroids)
    assert not torch.equal(a.centroids, c.centroids)


def test_bank_matches_about_as_well_as_all_pixels():
    features, labels, image = blobs(pixels=600, noise=0.25)
    queries, truth, _ = blobs(pixels=300, noise=0.25, seed=50)
    bank = build(features, labels, image)
    full = (match(queries, features, labels, 3).label == truth).float().mean()
    small = (match(queries, bank.vectors, bank.labels, 3).label == truth).float().mean()
    assert full > 0.8
    assert small > full - 0.02
    assert len(bank.labels) < len(labels) / 10


def test_bank_is_sorted_by_class_has_unit_vectors_and_counts_the_pixels():
    features, labels, image = blobs()
    bank = build(features, labels, image)
    assert torch.equal(bank.labels, bank.labels.sort().values)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(len(bank.labels)))
    assert (bank.counts >= 20).all()
    for c in range(3):
        assert bank.counts[bank.labels == c].sum() <= 200


def test_background_may_have_more_centres():
    features, labels, image = blobs(pixels=600, modes=40, images=12)
    bank = build(features, labels, image, centroids=3, background_centroids=6)
    sizes = torch.bincount(bank.labels, minlength=3)
    assert (sizes <= torch.tensor([6, 3, 3])).all()
    assert sizes[0] > 3


def test_one_image_contributes_at_most_its_cap():
    features, labels, image = blobs(pixels=400, images=2)
    bank = build(features, labels, image, cap_per_image_class=30)
    for c in range(3):
        assert bank.counts[bank.labels == c].sum() <= 60


def test_a_class_contributes_at_most_its_cap():
    features, labels, image = blobs(pixels=400, images=20)
    bank = build(features, labels, image, cap_per_class=100)
    for c in range(3):
        assert bank.counts[bank.labels == c].sum() <= 100


def test_centres_of_too_few_pixels_or_images_are_dropped():
    features, labels, image = blobs(pixels=60)
    assert (build(features, labels, image, min_pixels=61).labels == 0).sum() == 0
    image[labels == 1] = 0
    bank = build(features, labels, image)
    assert set(bank.labels.tolist()) == {0, 2}
    assert 1 in build(features, labels, image, min_images=1).labels


def test_a_cluster_of_one_image_alone_is_dropped():
    # Direction 1 occurs in image 0 only, direction 0 in both.
    features = torch.eye(2).repeat_interleave(40, dim=0)
    image = torch.tensor([0, 1]).repeat(40)
    image[40:] = 0
    bank = build(features, torch.zeros(80, dtype=torch.long), image, 1, background_centroids=2)
    assert bank.vectors.tolist() == [[1.0, 0.0]]
    assert bank.counts.tolist() == [40]


def test_a_rare_class_falls_back_to_one_centre():
    # Two clusters of one image each: both fail, their union does not.
    features = torch.eye(2).repeat_interleave(40, dim=0)
    image = torch.tensor([0, 1]).repeat_interleave(40)
    bank = build(features, torch.zeros(80, dtype=torch.long), image, 1)
    assert bank.counts.tolist() == [80]
    torch.testing.assert_close(bank.vectors, torch.full((1, 2), 0.5**0.5))


def test_ignored_pixels_and_missing_classes_leave_no_vector():
    features, labels, image = blobs()
    labels = torch.where(labels == 1, IGNORE, labels)
    bank = build(features, labels, image)
    assert set(bank.labels.tolist()) == {0, 2}
    nothing = build(features, torch.full_like(labels, IGNORE), image)
    assert nothing.vectors.shape == (0, 16)


def test_bank_is_reproducible():
    features, labels, image = blobs()
    a, b = build(features, labels, image), build(features, labels, image)
    assert torch.equal(a.vectors, b.vectors)
    assert torch.equal(a.counts, b.counts)


def some_bank(size, seed, num_classes=3):
    vectors = torch.nn.functional.normalize(torch.randn(size, 5, generator=rng(seed)), dim=1)
    labels = torch.randint(0, num_classes, (size,), generator=rng(seed)).sort().values
    return Bank(vectors, labels, torch.randint(20, 99, (size,), generator=rng(seed)))


def test_small_banks_are_joined_and_sorted():
    a, b = some_bank(6, 1), some_bank(5, 2)
    joined = merge_banks([a, b], 11)
    assert len(joined.labels) == 11
    assert torch.equal(joined.labels, joined.labels.sort().values)
    assert sorted(joined.counts.tolist()) == sorted(a.counts.tolist() + b.counts.tolist())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k_max=st.integers(3, 60))
def test_a_merged_bank_keeps_every_pixel_count_and_fits(seed, k_max):
    banks = [some_bank(40, seed), some_bank(30, seed + 1)]
    merged = merge_banks(banks, k_max)
    assert len(merged.labels) <= k_max
    assert merged.counts.sum() == sum(b.counts.sum() for b in banks)
    for c in range(3):
        before = sum(b.counts[b.labels == c].sum() for b in banks)
        assert merged.counts[merged.labels == c].sum() == before
    torch.testing.assert_close(merged.vectors.norm(dim=1), torch.ones(len(merged.labels)))


def test_merging_weighs_vectors_by_their_counts():
    vectors, labels = torch.eye(2), torch.zeros(2, dtype=torch.long)
    merged = merge_banks([Bank(vectors, labels, torch.tensor([300, 400]))], 1)
    torch.testing.assert_close(merged.vectors, torch.tensor([[0.6, 0.8]]))
    assert merged.counts.tolist() == [700]


def test_merging_needs_room_for_every_class_and_one_dimension():
    with pytest.raises(ValueError, match="k_max=2"):
        merge_banks([some_bank(40, 0)], 2)
    other = Bank(torch.ones(1, 4), torch.zeros(1, dtype=torch.long), torch.ones(1))
    with pytest.raises(ValueError, match="feature dimensions"):
        merge_banks([some_bank(4, 0), other])
    with pytest.raises(ValueError, match="feature dimensions"):
        merge_banks([])


def test_no_noise_is_bit_exact_and_noise_has_its_size():
    bank = some_bank(2000, 0)
    assert noisy_bank(bank, 0.0, rng()) is bank
    noisy = noisy_bank(bank, 0.02, rng(9))
    torch.testing.assert_close(noisy.vectors.norm(dim=1), torch.ones(2000))
    # Small noise turns a vector by its tangential part: 4 of 5 dimensions.
    turned = (noisy.vectors - bank.vectors).square().sum(1).mean().item()
    assert turned == pytest.approx(4 * 0.02**2, rel=0.1)


def test_grid_labels_by_hand():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[0, :2, 2:] = 1  # a full cell
    label[0, 2:, 0] = 2  # half a cell
    label[0, 2:, 2:] = torch.tensor([[2, 2], [2, 255]])  # three quarters, and one to ignore
    assert grid_labels(label, 2, 3).tolist() == [[[0, 1], [IGNORE, IGNORE]]]
    assert grid_labels(label, 2, 3, purity=0.5).tolist() == [[[0, 1], [0, IGNORE]]]
    label[0, 3, 3] = 1
    assert grid_labels(label, 2, 3).tolist() == [[[0, 1], [IGNORE, 2]]]


def test_purity_is_a_closed_bound():
    label = torch.tensor([[[1, 1], [1, 0]]])
    assert grid_labels(label, 1, 2, purity=0.75).item() == 1
    assert grid_labels(label, 1, 2, purity=0.76).item() == IGNORE


def test_grids_never_upsample_and_work_in_3d():
    label = torch.randint(0, 2, (2, 3, 16, 16), generator=rng())
    assert grid_labels(label, 8, 2).shape == (2, 3, 8, 8)
    features = torch.randn(2, 5, 3, 16, 16, generator=rng())
    pooled = grid_features(features, 8)
    assert pooled.shape == (2, 5, 3, 8, 8)
    torch.testing.assert_close(pooled[..., 0, 0], features[..., :2, :2].mean((-1, -2)))


def test_a_map_as_small_as_the_grid_keeps_its_labels():
    label = torch.randint(0, 4, (2, 6, 6), generator=rng())
    assert torch.equal(grid_labels(label, 64, 4), label)


def test_narrow_labels_do_not_overflow():
    features = torch.randn(3000, 4, generator=rng())
    labels, image = torch.arange(3000) % 3, torch.arange(3000) // 30
    wide, narrow = (
        reference_bank(features, own, image, 3, cap_per_image_class=1, generator=rng())
        for own in (labels, labels.to(torch.int8))
    )
    assert torch.equal(wide.counts, narrow.counts)
    assert torch.equal(wide.vectors, narrow.vectors)
