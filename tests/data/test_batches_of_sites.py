"""Which cases batches are drawn from: labeled, unlabeled and kept ones, and by which seeds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from coded_sites import CPU, coded

from fedssl.config import AugmentConfig, RunConfig
from fedssl.data.batches import Batches, SiteTrainingData
from fedssl.data.prepare import PreparePlan, prepare
from fedssl.data.source import FolderSource
from fedssl.errors import TrainingError
from fedssl.federation import SiteSpec
from fedssl.types import Task


def everything(batches: Batches, count: int = 3) -> list[np.ndarray]:
    parts: list[torch.Tensor] = []
    for _ in range(count):
        labeled, unlabeled = batches.next_labeled(), batches.next_unlabeled()
        parts += [labeled.image, labeled.label, labeled.case, unlabeled.case]
        parts += [*unlabeled.stored.values()]
        parts += [t for view in unlabeled.views.values() for t in (view.image, view.theta)]
    return [part.numpy() for part in parts]


@pytest.fixture
def mixed(site_batches):
    """Two labeled and two unlabeled volumes, all with masks, and full augmentation."""

    def build(hidden_seed: int, seed: int = 0):
        images = [np.random.default_rng(i).normal(size=(1, 5, 12, 12)) for i in range(4)]
        labels = [np.random.default_rng(9 + i).integers(0, 2, (5, 12, 12)) for i in range(2)]
        labels += [np.random.default_rng(hidden_seed).integers(0, 2, (5, 12, 12))] * 2
        batches, data = site_batches(
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


def test_an_unlabeled_site_trains_although_its_label_file_is_gone(site_batches):
    batches, data = site_batches([coded(0, (4, 4))], [np.ones((4, 4), np.uint8)])
    (data.prepared.folder / "labels.npy").unlink()
    assert batches.next_unlabeled().case.tolist() == [0] * 4


def test_labeled_and_unlabeled_cases_never_mix(site_batches):
    images = [coded(i, (4, 4)) for i in range(5)]
    batches, _ = site_batches(images, [np.ones((4, 4), np.uint8)] * 5, labeled=(1, 3), batch_size=3)
    assert {int(c) for _ in range(8) for c in batches.next_labeled().case} == {1, 3}
    assert {int(c) for _ in range(8) for c in batches.next_unlabeled().case} == {0, 2, 4}


def test_only_kept_cases_are_drawn_also_when_kept_late(site_batches):
    batches, data = site_batches([coded(i, (4, 4)) for i in range(5)], [None] * 5)
    batches.next_unlabeled()
    data.keep_only([2, 4])
    assert {int(c) for _ in range(8) for c in batches.next_unlabeled().case} == {2, 4}
    data.keep_only([])
    with pytest.raises(TrainingError, match="No unlabeled case is left to draw from"):
        batches.next_unlabeled()


def test_a_site_without_labeled_cases_has_no_labeled_batch(site_batches):
    batches, _ = site_batches([coded(0, (4, 4))], [None])
    with pytest.raises(TrainingError, match="no labeled training case"):
        batches.next_labeled()


def test_maps_have_to_be_stored_for_every_drawn_case(site_batches):
    batches, data = site_batches([coded(i, (4, 4)) for i in range(4)], [None] * 4)
    assert batches.next_unlabeled().stored == {}
    data.store(0, pseudo=torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(TrainingError, match="store the same maps for every case, or keep_only"):
        batches.next_unlabeled()
    data.keep_only([0])
    assert batches.next_unlabeled().stored["pseudo"].shape == (4, 1, 4, 4)


def test_small_sites_fill_a_batch_with_repeats(site_batches):
    batches, _ = site_batches([coded(i, (4, 4)) for i in range(2)], [None] * 2, batch_size=64)
    counts = Counter(batches.next_unlabeled().case.tolist())
    assert set(counts) == {0, 1}
    assert sum(counts.values()) == 64


@pytest.mark.gpu
def test_batches_are_made_on_the_training_device(site_batches):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    images, labels = [coded(0, (4, 4))], [np.ones((4, 4), np.uint8)]
    batches, _ = site_batches(images, labels, labeled=(0,), device=torch.device("cuda"))
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
