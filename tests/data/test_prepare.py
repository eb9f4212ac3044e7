from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fedssl.config import RunConfig
from fedssl.data import cache
from fedssl.data.cache import CacheWriter, default_cache_dir, open_prepared
from fedssl.data.intensity import zscore
from fedssl.data.prepare import PreparePlan, prepare, prepare_site
from fedssl.data.source import CaseRef, FolderSource
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Case, Task

PLAN = PreparePlan(None, "none", "2d", 1)


@dataclass
class Arrays:
    """A source of seeded pictures of growing size; every second has a mask."""

    count: int = 3
    key: str = "k"
    fails_at: int = -1
    reads: int = 0

    @property
    def cases(self) -> list[CaseRef]:
        return [CaseRef(f"c{i}", f"p{i // 2}", i % 2 == 0) for i in range(self.count)]

    def read(self, index: int) -> Case:
        if index == self.fails_at:
            raise KeyboardInterrupt
        self.reads += 1
        rng = np.random.default_rng(index)
        shape = (4 + index, 6)
        image = rng.normal(size=(1, *shape)).astype(np.float32)
        label = rng.integers(0, 3, shape).astype(np.uint8) if index % 2 == 0 else None
        return Case(f"c{index}", f"p{index // 2}", image, label, (2.0, 1.0), "mm")

    def content_key(self) -> str:
        return self.key


def test_what_is_prepared_is_what_was_read(tmp_path):
    source = Arrays()
    done = []
    site = prepare(source, PLAN, tmp_path, lambda *step: done.append(step))
    assert done == [(1, 3), (2, 3), (3, 3)]
    for i in range(3):
        case = source.read(i)
        np.testing.assert_array_equal(site.image(i), case.image)
        row = site.cases[i]
        assert (row.name, row.subject, row.spacing, row.distance_unit) == (
            case.name,
            case.subject,
            (2.0, 1.0),
            "mm",
        )
        assert row.shape == row.original_shape == case.image.shape[1:]
        assert row.has_label == (case.label is not None)
        if case.label is not None:
            np.testing.assert_array_equal(site.label(i), case.label)
    assert site.image(0).dtype == np.float32
    assert site.label(0).dtype == np.uint8
    assert not site.image(0).flags.writeable


def test_a_case_without_a_mask_says_so(tmp_path):
    with pytest.raises(DataError, match="Case 'c1' has no mask"):
        prepare(Arrays(), PLAN, tmp_path).label(1)


def test_a_site_without_any_mask_can_be_prepared(tmp_path):
    source = Arrays(count=2)
    source.read = lambda i: replace(Arrays().read(i), label=None)
    site = prepare(source, PLAN, tmp_path)
    assert [c.has_label for c in site.cases] == [False, False]
    assert site.image(1).shape == (1, 5, 6)


def test_the_second_time_nothing_is_read(tmp_path):
    source = Arrays()
    prepare(source, PLAN, tmp_path)
    site = prepare(source, PLAN, tmp_path)
    assert source.reads == 3
    assert site.image(2).shape == (1, 6, 6)


def test_other_contents_or_another_plan_are_prepared_anew(tmp_path):
    prepare(Arrays(), PLAN, tmp_path)
    for source, plan in (
        (Arrays(key="other"), PLAN),
        (Arrays(), replace(PLAN, normalise="zscore")),
        (Arrays(), replace(PLAN, image_size=(4, 4))),
    ):
        prepare(source, plan, tmp_path)
        assert source.reads == 3
    assert len(list(tmp_path.iterdir())) == 4


def test_the_size_and_the_spacing_change_together(tmp_path):
    site = prepare(Arrays(), replace(PLAN, image_size=(8, 3)), tmp_path)
    first = site.cases[0]
    assert (first.shape, first.original_shape) == ((8, 3), (4, 6))
    assert first.spacing == (1.0, 2.0)  # 4 rows of 2 mm are 8 rows of 1 mm
    assert site.image(0).shape == (1, 8, 3)
    assert site.label(0).shape == (8, 3)


def test_normalising_is_that_of_the_whole_image(tmp_path):
    site = prepare(Arrays(), replace(PLAN, normalise="zscore"), tmp_path)
    np.testing.assert_array_equal(site.image(1), zscore(Arrays().read(1).image))


def test_the_label_file_is_opened_by_label_only(tmp_path):
    site = prepare(Arrays(), PLAN, tmp_path)
    (site.folder / "labels.npy").unlink()
    np.testing.assert_array_equal(site.image(0), Arrays().read(0).image)
    with pytest.raises(FileNotFoundError):
        site.label(0)


def test_a_killed_run_leaves_nothing_that_passes_for_finished(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        prepare(Arrays(fails_at=2), PLAN, tmp_path)
    assert list(tmp_path.iterdir()) == []
    # a process that was killed outright cannot tidy up: its folder has another name
    site = prepare(Arrays(), PLAN, tmp_path)
    left = tmp_path / f".{site.folder.name}.abc.tmp"
    site.folder.rename(left)
    source = Arrays()
    again = prepare(source, PLAN, tmp_path)
    assert source.reads == 3
    assert again.folder != left


def test_what_was_abandoned_a_day_ago_is_removed(tmp_path):
    old, young = tmp_path / ".k.old.tmp", tmp_path / ".k.young.tmp"
    for folder in (old, young):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"part")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    prepare(Arrays(), PLAN, tmp_path)
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "images.npy").write_bytes(b"short"),
        lambda folder: (folder / "labels.npy").unlink(),
        lambda folder: (folder / "index.json").write_text(json.dumps({"version": 0})),
    ],
)
def test_a_damaged_copy_is_replaced(tmp_path, damage):
    damage(prepare(Arrays(), PLAN, tmp_path).folder)
    source = Arrays()
    site = prepare(source, PLAN, tmp_path)
    assert source.reads == 3
    np.testing.assert_array_equal(site.label(0), Arrays().read(0).label)
    assert list(tmp_path.iterdir()) == [site.folder], "nothing of the damaged one is left"


def test_a_result_that_appears_while_one_looks_for_it_is_kept(tmp_path, monkeypatch):
    quicker = prepare(Arrays(), PLAN, tmp_path / "elsewhere").folder
    target = tmp_path / "cache" / quicker.name

    def look_too_early(cache_dir: Path, key: str) -> object:
        found = open_prepared(cache_dir, key)
        if quicker.exists():
            quicker.rename(target)
        return found

    with CacheWriter(target.parent, target.name) as writer:
        monkeypatch.setattr(cache, "open_prepared", look_too_early)
        writer.finish()
    assert list(target.parent.iterdir()) == [target]


def _prepare_in_process(folder: str, start: float) -> None:
    while time.time() < start:
        time.sleep(0.001)
    site = prepare(Arrays(count=40), PLAN, Path(folder))
    assert site.image(39).shape == (1, 43, 6)


def test_processes_that_prepare_at_once_all_succeed_and_leave_one_result(tmp_path):
    context = multiprocessing.get_context("fork")
    start = time.time() + 0.3
    workers = [
        context.Process(target=_prepare_in_process, args=(str(tmp_path), start)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    (folder,) = tmp_path.iterdir()
    assert open_prepared(tmp_path, folder.name) is not None


def test_a_result_that_another_process_finished_first_is_kept(tmp_path):
    class Slow(Arrays):
        def read(self, index: int) -> Case:
            if index == 2:
                prepare(Arrays(), PLAN, tmp_path)
            return super().read(index)

    site = prepare(Slow(), PLAN, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [site.folder.name]


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"cache folder .*file cannot be written.*cache-dir"):
        prepare(Arrays(), PLAN, tmp_path / "file")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # stands for a full disk
        with pytest.raises(DataError, match=r"cannot be written: File too large.*cache-dir"):
            prepare(Arrays(count=200), PLAN, tmp_path)

    worker = multiprocessing.get_context("fork").Process(target=limited)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_run_names_the_cache_folder_or_the_user_cache_serves(tmp_path, monkeypatch):
    task = Task("t", ("b", "f"))
    run = RunConfig(cache_dir=str(tmp_path / "mine"))
    assert prepare_site(Arrays(), PLAN, run).folder.parent == tmp_path / "mine"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    plan = PreparePlan.from_run(RunConfig(), task)
    assert prepare_site(Arrays(), plan, RunConfig()).folder.parent == tmp_path / "xdg" / "fedssl"


def test_without_a_writable_home_a_temporary_folder_serves(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = default_cache_dir()
    assert folder.parent == tmp_path
    (folder / "probe").write_text("writable")


@pytest.mark.parametrize(
    ("folder", "mode", "channels", "classes", "size"),
    [
        ("lgg_flair_3d/tcga_cs", "slices", 1, 2, (64, 64)),
        ("la_2018_half/utah", "3d", 1, 2, (32, 48, 48)),
        ("hippocampus_msd/vanderbilt", "3d", 1, 3, None),
        ("retina_vessels/chase_db1", "2d", 3, 2, (96, 96)),
    ],
)
def test_one_shard_of_each_real_data_set_is_prepared(
    real_data, tmp_path, folder, mode, channels, classes, size
):
    spec = SiteSpec(name="x", path=str(real_data / folder), role="labeled", shard=(1, 11))
    task = Task("t", tuple("bxyz"[:classes]), mode=mode, channels=channels)
    plan = PreparePlan(size, "zscore", mode, channels)
    site = prepare(FolderSource(spec, task), plan, tmp_path)
    for i, case in enumerate(site.cases):
        image, label = np.array(site.image(i)), np.array(site.label(i))
        assert image.shape == (channels, *label.shape)
        assert size is None or label.shape[-len(size) :] == size
        assert np.isfinite(image).all()
        assert 0.2 < image.std() < 3
        assert 0 < np.count_nonzero(label) < label.size / 2
        assert len(case.spacing) == label.ndim
