"""What a sample is: whole images, slices, neighbours, patches around foreground."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coded_sites import coded

from fedssl.config import ModelConfig
from fedssl.errors import ConfigError, DataError


def test_pictures_come_whole_with_their_masks_and_cases(site_batches):
    images = [coded(i, (4, 6), 3) for i in range(4)]
    labels = [(image[0] % 3 == 0).astype(np.uint8) for image in images]
    batches, _ = site_batches(images, labels, labeled=range(4), foreground_fraction=0.0)
    batch = batches.next_labeled()
    assert batch.image.dtype == torch.float32
    assert batch.label.dtype == torch.int64
    assert sorted(batch.case.tolist()) == [0, 1, 2, 3]
    for image, label, case in zip(batch.image, batch.label, batch.case.tolist(), strict=True):
        np.testing.assert_array_equal(image.numpy(), images[case].astype(np.float32))
        np.testing.assert_array_equal(label.numpy(), labels[case])


def test_whole_images_are_padded_at_their_end_to_what_the_network_can_halve(site_batches):
    image, label = coded(0, (5, 6)), np.ones((5, 6), dtype=np.uint8)
    batches, data = site_batches([image], [label], labeled=(0,), model=ModelConfig(depth=2))
    batch = batches.next_labeled()
    assert batches.size == (8, 8)
    expected = np.pad(image[0], ((0, 3), (0, 2)), mode="edge")
    np.testing.assert_array_equal(batch.image[0, 0].numpy(), expected)
    np.testing.assert_array_equal(batch.label[0].numpy(), np.pad(label, ((0, 3), (0, 2))))
    unlabeled, data = site_batches([image], [None], model=ModelConfig(depth=2), seed=1)
    data.store(0, pseudo=torch.ones(1, 5, 6, dtype=torch.uint8))
    stored = unlabeled.next_unlabeled().stored["pseudo"]
    np.testing.assert_array_equal(stored[0, 0].numpy(), np.pad(label, ((0, 3), (0, 2))))


def test_slices_are_drawn_once_each_per_epoch(site_batches):
    images = [coded(i, (3 + i, 4, 4)) for i in range(2)]
    batches, _ = site_batches(images, [None, None], mode="slices", batch_size=7)
    first = batches.next_unlabeled().views["weak"].image[:, 0, 0, 0].tolist()
    assert sorted(first) == sorted(float(v) for image in images for v in image[0, :, 0, 0])


@pytest.mark.parametrize("channels", [1, 2])
def test_2_5d_samples_are_neighbours_of_one_volume_and_the_mask_of_the_middle(
    site_batches, channels
):
    images = [coded(i, (3, 4, 4), channels) for i in range(2)]
    labels = [np.arange(48, dtype=np.uint8).reshape(3, 4, 4) + 100 * i for i in range(2)]
    batches, _ = site_batches(
        images, labels, mode="2.5d", labeled=(0, 1), foreground_fraction=0.0, batch_size=6
    )
    batch = batches.next_labeled()
    assert batch.image.shape == (6, 3 * channels, 4, 4)
    middles = set()
    for image, label, case in zip(batch.image, batch.label, batch.case.tolist(), strict=True):
        middle = int(label[0, 0]) % 100 // 16
        middles.add((case, middle))
        stack = [max(middle - 1, 0), middle, min(middle + 1, 2)]
        expected = np.concatenate([images[case][:, z] for z in stack])
        np.testing.assert_array_equal(image.numpy(), expected.astype(np.float32))
        np.testing.assert_array_equal(label.numpy(), labels[case][middle])
    assert middles == {(c, z) for c in range(2) for z in range(3)}


@pytest.mark.parametrize(
    ("mode", "shape", "patch"),
    [("2d", (9, 11), "4,6"), ("slices", (3, 9, 11), "4,6"), ("3d", (6, 9, 11), "4,4,6")],
)
def test_a_patch_cuts_image_mask_and_stored_maps_at_the_same_place(
    site_batches, mode, shape, patch
):
    image = coded(0, shape)
    labels = (image[0] % 251).astype(np.uint8)
    batches, _ = site_batches(
        [image], [labels], mode=mode, labeled=(0,), patch_size=patch, batch_size=16
    )
    size = tuple(int(p) for p in patch.split(","))
    batch = batches.next_labeled()
    assert batch.image.shape == (16, 1, *size)
    np.testing.assert_array_equal(batch.label.numpy(), batch.image[:, 0].numpy() % 251)
    assert len(set(batch.image.flatten(1)[:, 0].tolist())) > 5  # places differ

    unlabeled, data = site_batches(
        [image], [None], mode=mode, patch_size=patch, batch_size=16, seed=1
    )
    maps = torch.from_numpy(np.stack([labels, labels // 2]))
    data.store(0, pseudo=maps, prob=maps.to(torch.float16))
    drawn = unlabeled.next_unlabeled()
    place = drawn.views["weak"].image[:, 0] % 251
    assert drawn.stored["pseudo"].dtype == torch.uint8
    assert drawn.stored["prob"].dtype == torch.float16
    np.testing.assert_array_equal(drawn.stored["pseudo"][:, 0].numpy(), place.numpy())
    np.testing.assert_array_equal(drawn.stored["prob"][:, 1].float(), place.numpy() // 2)


def test_a_patch_larger_than_the_image_is_padded(site_batches):
    image = coded(0, (2, 3))
    batches, _ = site_batches([image], [np.ones((2, 3), np.uint8)], labeled=(0,), patch_size="4")
    batch = batches.next_labeled()
    np.testing.assert_array_equal(
        batch.image[0, 0].numpy(), np.pad(image[0], ((0, 2), (0, 1)), mode="edge")
    )
    assert int(batch.label[0].sum()) == 6


def sparse_volume() -> np.ndarray:
    label = np.zeros((40, 8, 8), dtype=np.uint8)
    label[7, 6, 1] = label[31, 0, 7] = 1
    return label


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 1.0, 1.0), (0.3, 0.27, 0.42)])
def test_the_share_of_slices_with_foreground_is_as_asked(site_batches, share, low, high):
    batches, _ = site_batches(
        [coded(0, (40, 8, 8))],
        [sparse_volume()],
        mode="slices",
        labeled=(0,),
        foreground_fraction=share,
        batch_size=7,
    )
    drawn = [batches.next_labeled().label.flatten(1).any(1) for _ in range(60)]
    # 5 % of the slices that are drawn from all show foreground as well
    assert low <= float(torch.cat(drawn).float().mean()) <= high


@pytest.mark.parametrize(
    ("mode", "label", "patch"),
    [
        ("3d", sparse_volume(), "4"),
        ("slices", sparse_volume(), "4"),
        ("2d", sparse_volume()[7], "2"),
    ],
)
def test_patches_are_drawn_around_foreground(site_batches, mode, label, patch):
    image = coded(0, label.shape)
    batches, _ = site_batches(
        [image], [label], mode=mode, labeled=(0,), patch_size=patch, foreground_fraction=1.0
    )
    for _ in range(10):
        assert batches.next_labeled().label.flatten(1).any(1).all()


def test_masks_without_foreground_are_drawn_like_any(site_batches):
    empty = np.zeros((4, 4), dtype=np.uint8)
    batches, _ = site_batches([coded(0, (4, 4))], [empty], labeled=(0,), foreground_fraction=1.0)
    assert batches.next_labeled().case.tolist() == [0, 0, 0, 0]


def test_images_of_different_sizes_need_a_patch_or_a_size(site_batches):
    images = [coded(0, (4, 6)), coded(1, (4, 8))]
    with pytest.raises(
        DataError,
        match=r"differ in size: 'case0' has \(4, 6\), 'case1' has \(4, 8\).*image-size.*patch-size",
    ):
        site_batches(images, [None, None])
    batches, _ = site_batches(images, [None, None], patch_size="4")
    assert batches.next_unlabeled().views["weak"].image.shape == (4, 1, 4, 4)


def test_volumes_of_different_depth_are_no_obstacle_to_slices(site_batches):
    batches, _ = site_batches(
        [coded(i, (2 + i, 4, 4)) for i in range(3)], [None] * 3, mode="slices"
    )
    assert batches.next_unlabeled().views["weak"].image.shape == (4, 1, 4, 4)


def test_a_patch_has_to_suit_the_network(site_batches):
    with pytest.raises(ConfigError, match="'patch-size' = '5': 5 is no multiple of 2"):
        site_batches([coded(0, (8, 8))], [None], patch_size="5")
