from __future__ import annotations

import numpy as np
import pytest
import torch

from fedssl.config import RunConfig
from fedssl.data.site_data import SiteTrainingData
from fedssl.errors import DataError, TrainingError
from fedssl.types import Task

CPU = torch.device("cpu")


def volume(seed: int, depth: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, depth, 4, 5)).astype(np.float32)


def mask(seed: int, depth: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (depth, 4, 5)).astype(np.uint8)


@pytest.fixture
def data(prepared_site, tmp_path):
    """Four volumes of 3, 4, 5 and 6 slices with masks; 0, 1 and 3 train, 1 is labeled."""

    def build(mode: str = "slices", labeled=(1,), **run) -> SiteTrainingData:
        site = prepared_site(
            [volume(i, 3 + i) for i in range(4)], [mask(i, 3 + i) for i in range(4)]
        )
        task = Task("t", ("b", "f"), mode=mode)
        return SiteTrainingData(
            site, (0, 1, 3), labeled, task, RunConfig(**run), CPU, tmp_path / "stored"
        )

    return build


@pytest.mark.parametrize(
    ("mode", "total", "labeled"), [("slices", 13, 4), ("2.5d", 13, 4), ("3d", 3, 1)]
)
def test_samples_are_slices_or_volumes(data, mode, total, labeled):
    site = data(mode)
    assert (site.num_examples, site.num_labeled) == (total, labeled)
    assert (site.labeled, site.unlabeled) == ((1,), (0, 3))


def test_images_and_masks_come_as_tensors_of_their_own(data):
    site = data()
    image = site.image(1)
    np.testing.assert_array_equal(image.numpy(), volume(1, 4))
    image.zero_()  # does not reach the prepared file
    np.testing.assert_array_equal(site.image(1).numpy(), volume(1, 4))
    assert site.label(1).dtype == torch.int64
    np.testing.assert_array_equal(site.label(1).numpy(), mask(1, 4))


def test_the_mask_of_an_unlabeled_case_is_refused_and_the_file_is_never_opened(data):
    site = data()
    (site.prepared.folder / "labels.npy").unlink()  # whoever opens it fails
    for ask in (site.label, site.label_array, site.foreground_counts):
        with pytest.raises(TrainingError, match="case 0, which is not among the labeled"):
            ask(0)
    with pytest.raises(FileNotFoundError):
        site.label(1)


def test_labeled_cases_have_to_be_training_cases(data):
    with pytest.raises(ValueError, match="training positions"):
        data(labeled=(2,))


def stored_for(case: int) -> dict[str, torch.Tensor]:
    shape = (2, 3 + case, 4, 5)
    generator = torch.Generator().manual_seed(case)
    return {
        "pseudo": torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8),
        "prob": torch.rand(shape, generator=generator).to(torch.float16),
    }


def test_stored_maps_come_back_bit_by_bit_here_and_in_the_next_process(data):
    site = data()
    site.store(0, **stored_for(0))
    site.store(3, **stored_for(3))
    other = data()
    assert other.stored_maps(0) == {}
    other.load_stored()
    for view in (site, other):
        for case in (0, 3):
            for name, value in stored_for(case).items():
                found = view.stored_maps(case)[name]
                np.testing.assert_array_equal(found, value.numpy())
                assert found.dtype == value.numpy().dtype
                assert not found.flags.writeable
    assert site.stored_maps(1) == {}


def test_the_last_map_stored_counts_and_views_taken_before_keep_theirs(data):
    site = data()
    first, second = stored_for(0)["pseudo"], 1 - stored_for(0)["pseudo"]
    site.store(0, pseudo=first)
    before = site.stored_maps(0)["pseudo"]
    site.store(0, pseudo=second)
    np.testing.assert_array_equal(before, first.numpy())
    np.testing.assert_array_equal(site.stored_maps(0)["pseudo"], second.numpy())
    other = data()
    other.load_stored()
    np.testing.assert_array_equal(other.stored_maps(0)["pseudo"], second.numpy())


def test_files_follow_names_and_not_positions(data, prepared_site, tmp_path):
    data().store(3, pseudo=stored_for(3)["pseudo"])
    fewer = prepared_site([volume(3, 6)], [None], key="fewer")  # its one case is called case0
    task = Task("t", ("b", "f"), mode="slices")
    site = SiteTrainingData(fewer, (0,), (), task, RunConfig(), CPU, tmp_path / "stored")
    site.load_stored()
    assert site.stored_maps(0) == {}


def test_clearing_removes_the_files(data):
    site = data()
    site.store(0, **stored_for(0))
    site.clear_stored()
    assert site.stored_maps(0) == {}
    other = data()
    other.load_stored()
    assert other.stored_maps(0) == {}
    site.clear_stored()


def test_what_an_interrupted_write_left_is_not_picked_up(data, tmp_path):
    site = data()
    site.store(0, pseudo=stored_for(0)["pseudo"])
    (path,) = (tmp_path / "stored").iterdir()
    path.with_name(f".{path.name}.99.tmp").write_bytes(b"part")
    other = data()
    other.load_stored()
    assert list(other.stored_maps(0)) == ["pseudo"]


def test_a_map_is_used_only_as_it_was_written_and_in_its_own_run(data, tmp_path, caplog):
    site = data()
    site.run_name = "mine"
    site.store(0, pseudo=stored_for(0)["pseudo"])
    (path,) = (tmp_path / "stored").iterdir()
    good = path.read_bytes()
    site.load_stored()
    assert list(site.stored_maps(0)) == ["pseudo"]
    for content, reason in (
        (good[:200] + bytes([good[200] ^ 1]) + good[201:], "its digest is "),
        (good.replace(b'"mine"', b'"other"'), "it is of the run other, not of mine"),
        (good[: good.index(b"{", 128)], "its stamp is missing or damaged"),
        (good[:150], "it is damaged: "),
    ):
        path.write_bytes(content)
        site.load_stored()
        assert site.stored_maps(0) == {}, reason
        assert f"{path.name} is not used, the site goes on without it: {reason}" in caplog.text
    path.write_bytes(good)
    site.load_stored()
    assert list(site.stored_maps(0)) == ["pseudo"]


def test_an_outgrown_map_is_named(data, tmp_path):
    site = data()
    site.store(0, pseudo=stored_for(0)["pseudo"])
    (path,) = (tmp_path / "stored").iterdir()
    np.save(path, np.zeros((1, 3, 4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match=r"\(1, 3, 4, 4\), but its case has \(3, 4, 5\).*Remove"):
        site.load_stored()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pseudo", torch.zeros(1, 3, 4, 5)),
        ("pseudo", torch.zeros(1, 3, 4, 5, dtype=torch.bool)),
        ("pseudo", torch.zeros(3, 4, 5, dtype=torch.uint8)),
        ("pseudo", torch.zeros(1, 3, 4, 6, dtype=torch.uint8)),
        ("../pseudo", torch.zeros(1, 3, 4, 5, dtype=torch.uint8)),
    ],
)
def test_maps_of_another_type_shape_or_name_are_refused(data, tmp_path, name, value):
    with pytest.raises(
        TrainingError, match=r"Cannot store the map .*\[M, 3, 4, 5\], uint8 or float16"
    ):
        data().store(0, **{name: value})
    assert not (tmp_path / "stored").exists()


def test_keep_only_holds_until_the_next_stage(data):
    site = data()
    site.keep_only([3])
    assert site.kept == (3,)
    site.load_stored()
    assert site.kept == (0, 3)
    with pytest.raises(TrainingError, match="Case 1 cannot be kept"):
        site.keep_only([1])
