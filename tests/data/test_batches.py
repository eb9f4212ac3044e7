from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from fedssl.config import AugmentConfig, ModelConfig, RunConfig
from fedssl.data.batches import Batches, SiteTrainingData
from fedssl.data.prepare import PreparePlan, prepare
from fedssl.data.source import FolderSource
from fedssl.errors import ConfigError, DataError, TrainingError
from fedssl.federation import SiteSpec
from fedssl.types import Task

STILL = AugmentConfig(
    flip=False, rotate=0, scale=0, translate=0, probability=0, cutout=0, photometric_labeled=False
)
CPU = torch.device("cpu")


def coded(case: int, shape: tuple[int, ...], channels: int = 1) -> np.ndarray:
    """Every voxel tells its case, its channel and its place."""
    place = np.arange(np.prod(shape)).reshape(shape)
    return np.stack([place + 10_000 * c + 100_000 * case for c in range(channels)]).astype(float)


@pytest.fixture
def make(prepared_site, tmp_path):
    """Return batches over given images, labels and roles."""

    def build(images, labels, mode="2d", labeled=(), seed=0, device=CPU, **run):
        site = prepared_site(images, labels, key=f"site{len(list(tmp_path.iterdir()))}-{seed}")
        channels = len(images[0]) * (3 if mode == "2.5d" else 1)
        task = Task("t", ("b", "f"), mode=mode, channels=channels)
        settings = {"augment": STILL, "batch_size": 4, "model": ModelConfig(depth=1), **run}
        config = RunConfig(**settings)
        train = range(len(images))
        data = SiteTrainingData(site, train, labeled, task, config, device, tmp_path / f"st{seed}")
        return Batches(
            data,
            config,
            task,
            np.random.default_rng(seed),
            torch.Generator().manual_seed(seed),
        ), data

    return build


def test_pictures_come_whole_with_their_masks_and_cases(make):
    images = [coded(i, (4, 6), 3) for i in range(4)]
    labels = [(image[0] % 3 == 0).astype(np.uint8) for image in images]
    batches, _ = make(images, labels, labeled=range(4), foreground_fraction=0.0)
    batch = batches.next_labeled()
    assert batch.image.dtype == torch.float32
    assert batch.label.dtype == torch.int64
    assert sorted(batch.case.tolist()) == [0, 1, 2, 3]
    for image, label, case in zip(batch.image, batch.label, batch.case.tolist(), strict=True):
        np.testing.assert_array_equal(image.numpy(), images[case].astype(np.float32))
        np.testing.assert_array_equal(label.numpy(), labels[case])


def test_whole_images_are_padded_at_their_end_to_what_the_network_can_halve(make):
    image, label = coded(0, (5, 6)), np.ones((5, 6), dtype=np.uint8)
    batches, data = make([image], [label], labeled=(0,), model=ModelConfig(depth=2))
    batch = batches.next_labeled()
    assert batches.size == (8, 8)
    expected = np.pad(image[0], ((0, 3), (0, 2)), mode="edge")
    np.testing.assert_array_equal(batch.image[0, 0].numpy(), expected)
    np.testing.assert_array_equal(batch.label[0].numpy(), np.pad(label, ((0, 3), (0, 2))))
    unlabeled, data = make([image], [None], model=ModelConfig(depth=2), seed=1)
    data.store(0, pseudo=torch.ones(1, 5, 6, dtype=torch.uint8))
    stored = unlabeled.next_unlabeled().stored["pseudo"]
    np.testing.assert_array_equal(stored[0, 0].numpy(), np.pad(label, ((0, 3), (0, 2))))


def test_slices_are_drawn_once_each_per_epoch(make):
    images = [coded(i, (3 + i, 4, 4)) for i in range(2)]
    batches, _ = make(images, [None, None], mode="slices", batch_size=7)
    first = batches.next_unlabeled().views["weak"].image[:, 0, 0, 0].tolist()
    assert sorted(first) == sorted(float(v) for image in images for v in image[0, :, 0, 0])


@pytest.mark.parametrize("channels", [1, 2])
def test_2_5d_samples_are_neighbours_of_one_volume_and_the_mask_of_the_middle(make, channels):
    images = [coded(i, (3, 4, 4), channels) for i in range(2)]
    labels = [np.arange(48, dtype=np.uint8).reshape(3, 4, 4) + 100 * i for i in range(2)]
    batches, _ = make(
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
def test_a_patch_cuts_image_mask_and_stored_maps_at_the_same_place(make, mode, shape, patch):
    image = coded(0, shape)
    labels = (image[0] % 251).astype(np.uint8)
    batches, _ = make([image], [labels], mode=mode, labeled=(0,), patch_size=patch, batch_size=16)
    size = tuple(int(p) for p in patch.split(","))
    batch = batches.next_labeled()
    assert batch.image.shape == (16, 1, *size)
    np.testing.assert_array_equal(batch.label.numpy(), batch.image[:, 0].numpy() % 251)
    assert len(set(batch.image.flatten(1)[:, 0].tolist())) > 5  # places differ

    unlabeled, data = make([image], [None], mode=mode, patch_size=patch, batch_size=16, seed=1)
    maps = torch.from_numpy(np.stack([labels, labels // 2]))
    data.store(0, pseudo=maps, prob=maps.to(torch.float16))
    drawn = unlabeled.next_unlabeled()
    place = drawn.views["weak"].image[:, 0] % 251
    assert drawn.stored["pseudo"].dtype == torch.uint8
    assert drawn.stored["prob"].dtype == torch.float16
    np.testing.assert_array_equal(drawn.stored["pseudo"][:, 0].numpy(), place.numpy())
    np.testing.assert_array_equal(drawn.stored["prob"][:, 1].float(), place.numpy() // 2)


def test_a_patch_larger_than_the_image_is_padded(make):
    image = coded(0, (2, 3))
    batches, _ = make([image], [np.ones((2, 3), np.uint8)], labeled=(0,), patch_size="4")
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
def test_the_share_of_slices_with_foreground_is_as_asked(make, share, low, high):
    batches, _ = make(
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
def test_patches_are_drawn_around_foreground(make, mode, label, patch):
    image = coded(0, label.shape)
    batches, _ = make(
        [image], [label], mode=mode, labeled=(0,), patch_size=patch, foreground_fraction=1.0
    )
    for _ in range(10):
        assert batches.next_labeled().label.flatten(1).any(1).all()


def test_masks_without_foreground_are_drawn_like_any(make):
    empty = np.zeros((4, 4), dtype=np.uint8)
    batches, _ = make([coded(0, (4, 4))], [empty], labeled=(0,), foreground_fraction=1.0)
    assert batches.next_labeled().case.tolist() == [0, 0, 0, 0]


def test_images_of_different_sizes_need_a_patch_or_a_size(make):
    images = [coded(0, (4, 6)), coded(1, (4, 8))]
    with pytest.raises(
        DataError,
        match=r"differ in size: 'case0' has \(4, 6\), 'case1' has \(4, 8\).*image-size.*patch-size",
    ):
        make(images, [None, None])
    batches, _ = make(images, [None, None], patch_size="4")
    assert batches.next_unlabeled().views["weak"].image.shape == (4, 1, 4, 4)


def test_volumes_of_different_depth_are_no_obstacle_to_slices(make):
    batches, _ = make([coded(i, (2 + i, 4, 4)) for i in range(3)], [None] * 3, mode="slices")
    assert batches.next_unlabeled().views["weak"].image.shape == (4, 1, 4, 4)


def test_a_patch_has_to_suit_the_network(make):
    with pytest.raises(ConfigError, match="'patch-size' = '5': 5 is no multiple of 2"):
        make([coded(0, (8, 8))], [None], patch_size="5")


def everything(batches: Batches, count: int = 3) -> list[np.ndarray]:
    parts: list[torch.Tensor] = []
    for _ in range(count):
        labeled, unlabeled = batches.next_labeled(), batches.next_unlabeled()
        parts += [labeled.image, labeled.label, labeled.case, unlabeled.case]
        parts += [*unlabeled.stored.values()]
        parts += [t for view in unlabeled.views.values() for t in (view.image, view.theta)]
    return [part.numpy() for part in parts]


@pytest.fixture
def mixed(make):
    """Two labeled and two unlabeled volumes, all with masks, and full augmentation."""

    def build(hidden_seed: int, seed: int = 0):
        images = [np.random.default_rng(i).normal(size=(1, 5, 12, 12)) for i in range(4)]
        labels = [np.random.default_rng(9 + i).integers(0, 2, (5, 12, 12)) for i in range(2)]
        labels += [np.random.default_rng(hidden_seed).integers(0, 2, (5, 12, 12))] * 2
        batches, data = make(
            images,
            [label.astype(np.uint8) for label in labels],
            mode="slices",
            labeled=(0, 1),
            patch_size="8",
            augment=AugmentConfig(),
            seed=seed,
        )
        for case in data.unlabeled:
            generator = torch.Generator().manual_seed(case)
            maps = torch.randint(0, 2, (1, 5, 12, 12), generator=generator, dtype=torch.uint8)
            data.store(case, pseudo=maps)
        return batches

    return build


def test_the_generators_decide_everything(mixed):
    first, again = everything(mixed(1)), everything(mixed(1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other = everything(mixed(1, seed=1))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_hidden_masks_of_unlabeled_cases_change_nothing(mixed):
    for a, b in zip(everything(mixed(1)), everything(mixed(2)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_unlabeled_site_trains_although_its_label_file_is_gone(make):
    batches, data = make([coded(0, (4, 4))], [np.ones((4, 4), np.uint8)])
    (data.prepared.folder / "labels.npy").unlink()
    assert batches.next_unlabeled().case.tolist() == [0] * 4


def test_labeled_and_unlabeled_cases_never_mix(make):
    images = [coded(i, (4, 4)) for i in range(5)]
    batches, _ = make(images, [np.ones((4, 4), np.uint8)] * 5, labeled=(1, 3), batch_size=3)
    assert {int(c) for _ in range(8) for c in batches.next_labeled().case} == {1, 3}
    assert {int(c) for _ in range(8) for c in batches.next_unlabeled().case} == {0, 2, 4}


def test_only_kept_cases_are_drawn_also_when_kept_late(make):
    batches, data = make([coded(i, (4, 4)) for i in range(5)], [None] * 5)
    batches.next_unlabeled()
    data.keep_only([2, 4])
    assert {int(c) for _ in range(8) for c in batches.next_unlabeled().case} == {2, 4}
    data.keep_only([])
    with pytest.raises(TrainingError, match="No unlabeled case is left to draw from"):
        batches.next_unlabeled()


def test_a_site_without_labeled_cases_has_no_labeled_batch(make):
    batches, _ = make([coded(0, (4, 4))], [None])
    with pytest.raises(TrainingError, match="no labeled training case"):
        batches.next_labeled()


def test_maps_have_to_be_stored_for_every_drawn_case(make):
    batches, data = make([coded(i, (4, 4)) for i in range(4)], [None] * 4)
    assert batches.next_unlabeled().stored == {}
    data.store(0, pseudo=torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(TrainingError, match="store the same maps for every case, or keep_only"):
        batches.next_unlabeled()
    data.keep_only([0])
    assert batches.next_unlabeled().stored["pseudo"].shape == (4, 1, 4, 4)


def test_small_sites_fill_a_batch_with_repeats(make):
    batches, _ = make([coded(i, (4, 4)) for i in range(2)], [None] * 2, batch_size=64)
    counts = Counter(batches.next_unlabeled().case.tolist())
    assert set(counts) == {0, 1}
    assert sum(counts.values()) == 64


@pytest.mark.gpu
def test_batches_are_made_on_the_training_device(make):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    images, labels = [coded(0, (4, 4))], [np.ones((4, 4), np.uint8)]
    batches, _ = make(images, labels, labeled=(0,), device=torch.device("cuda"))
    batch = batches.next_labeled()
    assert batch.image.is_cuda
    assert batch.label.is_cuda


@pytest.mark.parametrize(
    ("folder", "mode", "run"),
    [
        ("lgg_flair_3d/tcga_cs", "slices", {}),
        ("lgg_flair_3d/tcga_cs", "2.5d", {"image_size": "64"}),
        ("la_2018_half/utah", "3d", {"patch_size": "16,32,32"}),
        ("retina_vessels/chase_db1", "2d", {"patch_size": "64"}),
    ],
)
def test_real_images_come_in_batches(real_data, tmp_path, folder, mode, run):
    channels = {"2d": 3, "2.5d": 3}.get(mode, 1)
    task = Task("t", ("background", "foreground"), mode=mode, channels=channels)
    spec = SiteSpec(name="x", path=str(real_data / folder), role="labeled", shard=(0, 11))
    config = RunConfig(batch_size=2, foreground_fraction=1.0, **run)
    plan = PreparePlan.from_run(config, task)
    site = prepare(FolderSource(spec, task), plan, tmp_path)
    positions = range(len(site.cases))
    data = SiteTrainingData(site, positions, [0], task, config, CPU, tmp_path / "stored")
    batches = Batches(data, config, task, np.random.default_rng(0), torch.Generator())
    labeled, unlabeled = batches.next_labeled(), batches.next_unlabeled()
    assert labeled.image.shape[:2] == (2, channels)
    assert labeled.image.shape[2:] == labeled.label.shape[1:] == batches.size
    assert unlabeled.views["strong"].image.shape == labeled.image.shape
    assert torch.isfinite(unlabeled.views["strong"].image).all()
    assert set(labeled.label.unique().tolist()) <= {0, 1}
