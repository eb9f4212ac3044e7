from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from fedssl.config import RunConfig
from fedssl.data.source import CaseSource, open_source
from fedssl.data.synthetic import SYNTHETIC, SyntheticSource, synthetic_tables
from fedssl.data.synthetic.texture import smooth_noise
from fedssl.errors import ConfigError, DataError
from fedssl.federation import Federation, SiteSpec, load_federation
from fedssl.types import Role

NAMES = ("synthetic-fundus", "synthetic-prostate")


def federation(name: str) -> Federation:
    return load_federation(RunConfig(federation=name))


def sources(name: str) -> list[CaseSource]:
    fed = federation(name)
    return [open_source(spec, fed.task) for spec in fed.sites]


def test_synthetic_is_an_alias_of_synthetic_fundus() -> None:
    assert synthetic_tables("synthetic") == synthetic_tables("synthetic-fundus")
    assert set(SYNTHETIC) == {"synthetic", "synthetic-pair", *NAMES}


def test_tables_are_fresh_copies() -> None:
    synthetic_tables("synthetic")["task"]["mode"] = "3d"
    synthetic_tables("synthetic")["site"].clear()
    assert synthetic_tables("synthetic")["task"]["mode"] == "2d"
    assert len(synthetic_tables("synthetic")["site"]) == 5


def test_an_unknown_federation_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match="synthetic-fundus"):
        synthetic_tables("synthetic-fundu")


@pytest.mark.parametrize(("name", "count"), [("synthetic-fundus", 5), ("synthetic-prostate", 6)])
def test_the_first_two_sites_are_labeled(name: str, count: int) -> None:
    roles = [spec.role for spec in federation(name).sites]
    assert roles == [Role.LABELED] * 2 + [Role.UNLABELED] * (count - 2)


@pytest.mark.parametrize("name", NAMES)
def test_reading_twice_or_in_another_order_gives_the_same_case(name: str) -> None:
    first, again = sources(name)[1], sources(name)[1]
    last = len(first.cases) - 1
    forwards = [first.read(i) for i in (0, last)]
    backwards = [again.read(i) for i in (last, 0)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.label, b.label)
    assert not np.array_equal(forwards[0].image, forwards[1].image)


@pytest.mark.parametrize("name", NAMES)
def test_numpys_global_generator_is_neither_used_nor_moved(name: str) -> None:
    source = sources(name)[0]
    expected = source.read(0).image
    np.random.seed(1)  # noqa: NPY002 -- the global generator is what is meant
    before = np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002 -- a legacy state
    assert np.array_equal(source.read(0).image, expected)
    after = np.random.get_state()[1]  # type: ignore[index] # noqa: NPY002 -- a legacy state
    assert np.array_equal(before, after)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_images_are_a_prefix_of_more(name: str) -> None:
    fed = federation(name)
    spec = fed.sites[0]
    short = spec.model_copy(update={"options": {**spec.options, "images": 3}})
    few, many = SyntheticSource(short, fed.task), SyntheticSource(spec, fed.task)
    assert few.cases == many.cases[:3]
    assert np.array_equal(few.read(2).image, many.read(2).image)
    assert few.content_key() != many.content_key()


@pytest.mark.parametrize("name", NAMES)
def test_cases_have_the_tasks_shape_and_valid_classes(name: str) -> None:
    task = federation(name).task
    for source in sources(name):
        for index in (0, len(source.cases) - 1):
            case = source.read(index)
            assert case.image.dtype == np.float32
            assert case.image.ndim == task.spatial_dims + 1
            assert case.image.shape[0] == task.channels
            assert np.isfinite(case.image).all()
            assert case.label is not None
            assert case.label.shape == case.image.shape[1:]
            assert set(np.unique(case.label)) == set(range(task.num_classes))
            assert len(case.spacing) == task.spatial_dims
            ref = source.cases[index]
            assert (case.name, case.subject) == (ref.name, ref.subject)


def test_pictures_are_8_bit_colours_and_every_structure_has_a_few_percent() -> None:
    for source in sources("synthetic-fundus"):
        for index in range(8):
            case = source.read(index)
            assert case.label is not None
            assert case.image.shape == (3, 96, 96)
            assert np.array_equal(case.image, np.rint(case.image))
            assert case.image.min() >= 0
            assert case.image.max() <= 255
            assert 0.01 < (case.label >= 1).mean() < 0.35
            assert 0.1 < (case.label == 2).sum() / (case.label >= 1).sum() < 0.7


def test_the_cup_lies_inside_the_disc() -> None:
    # Nested: no pixel of the cup touches the background; a rim lies between, or the picture ends.
    touching = cup = 0
    for source in sources("synthetic-fundus"):
        for index in range(10):
            label = source.read(index).label
            assert label is not None
            for axis in (0, 1):
                pair = np.sort(
                    np.stack([label.take(range(95), axis), label.take(range(1, 96), axis)]), 0
                )
                touching += int(((pair[0] == 0) & (pair[1] == 2)).sum())
            cup += int((label == 2).sum())
    assert cup > 0
    assert touching / cup < 0.005


def test_volumes_have_one_gland_within_the_slices_and_thick_slices() -> None:
    spacings = set()
    for source in sources("synthetic-prostate"):
        case = source.read(0)
        assert case.label is not None
        assert 12 <= case.image.shape[1] <= 16
        assert case.image.shape[2:] == (64, 64)
        assert case.image.min() >= 0
        assert 0.01 < case.label.mean() < 0.2
        assert case.spacing[0] > case.spacing[1] == case.spacing[2]
        assert case.distance_unit == "mm"
        volume_ml = case.label.sum() * np.prod(case.spacing) / 1000
        assert 8 < volume_ml < 60
        spacings.add(case.spacing)
    assert len(spacings) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_sorted_and_some_subjects_have_two_images(name: str) -> None:
    for source in sources(name):
        names = [c.name for c in source.cases]
        subjects = [c.subject for c in source.cases]
        assert len(set(names)) == len(names)
        assert names == sorted(names)
        assert all(c.has_label for c in source.cases)
        assert max(subjects.count(s) for s in subjects) == 2
        assert len(subjects) * 0.8 < len(set(subjects)) < len(subjects)


def test_two_images_of_a_subject_show_the_same_disc_elsewhere() -> None:
    source = sources("synthetic-fundus")[0]
    assert source.cases[4].subject == source.cases[5].subject != source.cases[6].subject
    first, second, other = (source.read(i) for i in (4, 5, 6))
    areas = [int((c.label >= 1).sum()) for c in (first, second, other)]  # type: ignore[operator]  # drawn cases have a label
    assert abs(areas[0] - areas[1]) < 0.03 * areas[0]
    assert abs(areas[0] - areas[2]) > 0.03 * areas[0]
    assert not np.array_equal(first.label, second.label)


def test_sites_look_different_and_hold_different_subjects() -> None:
    colours = np.array(
        [np.mean([s.read(i).image.mean((1, 2)) for i in range(4)], 0)
         for s in sources("synthetic-fundus")]
    )  # fmt: skip
    apart = np.abs(colours[:, None] - colours[None]).max(2)
    assert apart[~np.eye(5, dtype=bool)].min() > 5
    keys = [s.content_key() for name in NAMES for s in sources(name)]
    assert len(set(keys)) == 11
    fed = federation("synthetic")
    twin = fed.sites[0].model_copy(update={"name": "twin"})
    a, b = SyntheticSource(fed.sites[0], fed.task), SyntheticSource(twin, fed.task)
    assert not np.array_equal(a.read(0).label, b.read(0).label)  # type: ignore[arg-type]  # drawn cases have a label


def test_size_and_look_can_be_overridden_in_a_site_table() -> None:
    fed = federation("synthetic")
    options = {"kind": "fundus", "look": 2, "images": 5, "size": 64}
    spec = SiteSpec(name="mine", role=Role.LABELED, layout="synthetic", options=options)
    source = SyntheticSource(spec, fed.task)
    assert len(source.cases) == 5
    assert source.read(4).image.shape == (3, 64, 64)
    volume = federation("synthetic-prostate")
    small = volume.sites[0].model_copy(update={"options": {"kind": "prostate", "size": 32}})
    case = SyntheticSource(small, volume.task).read(0)
    assert case.image.shape == (1, 14, 32, 32)
    assert case.spacing == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "fundis"}, "fundus"),
        ({"look": 5}, "from 0 to 4"),
        ({"images": 0}, "images = 0"),
        ({"size": "big"}, "size = 'big'"),
        ({"looks": 1}, "Did you mean 'look'"),
        ({"kind": "prostate"}, "classes"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, str | int], words: str) -> None:
    fed = federation("synthetic")
    spec = fed.sites[0].model_copy(update={"options": options})
    with pytest.raises(DataError, match=words):
        SyntheticSource(spec, fed.task)


def test_a_task_of_another_mode_or_channel_count_is_refused() -> None:
    fed = federation("synthetic-prostate")
    with pytest.raises(DataError, match="mode = '2d'"):
        SyntheticSource(fed.sites[0], replace(fed.task, mode="2d"))
    with pytest.raises(DataError, match="channels = 3"):
        SyntheticSource(fed.sites[0], replace(fed.task, channels=3))
    stacked = replace(fed.task, mode="2.5d", channels=3)
    assert SyntheticSource(fed.sites[0], stacked).read(0).image.shape[0] == 1


@pytest.mark.parametrize(
    ("name", "limit"), [("synthetic-fundus", 0.05), ("synthetic-prostate", 0.2)]
)
def test_drawing_is_quick(name: str, limit: float) -> None:
    # The limits are generous, so that a busy machine does not fail; typical are 4 and 15 ms.
    source = sources(name)[3]
    source.read(0)
    spent = []
    for index in range(1, 6):
        start = time.perf_counter()
        source.read(index)
        spent.append(time.perf_counter() - start)
    assert min(spent) < limit


def test_smooth_noise_is_smooth_and_about_unit_variance() -> None:
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_noise(rng, (60, 60), (7, 7)) for _ in range(50)])
    assert 0.3 < fields.std() < 1.1
    assert np.abs(np.diff(fields, axis=2)).max() < 1.5
    assert np.abs(np.diff(fields, axis=2)).mean() < 0.2 * fields.std()


def test_the_pair_is_a_labeled_and_an_unlabeled_site_of_synthetic_fundus() -> None:
    pair, whole = synthetic_tables("synthetic-pair"), synthetic_tables("synthetic-fundus")
    assert [(s["name"], s["role"]) for s in pair["site"]] == [
        ("clinic_a", "labeled"),
        ("clinic_c", "unlabeled"),
    ]
    assert all(site in whole["site"] for site in pair["site"])
    assert pair["task"] == whole["task"]
