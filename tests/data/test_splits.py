from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssl.config import SplitConfig
from fedssl.data.splits import Split, labeled_positions, make_split, read_splits, write_splits
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

SUBJECTS = [f"p{i // 2}" for i in range(40)]  # twenty subjects with two images each


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.integers(2, 8),
    st.floats(0, 0.89),
    st.integers(0, 5),
)
def test_every_case_is_in_one_part_and_no_subject_is_cut(numbers, folds, share, seed):
    subjects = [f"p{n}" for n in numbers]
    for fold in range(folds):
        config = SplitConfig(seed=seed, folds=folds, fold=fold, val_fraction=share)
        split = make_split(subjects, config, "site")
        parts = (split.train, split.val, split.test)
        assert sorted(i for part in parts for i in part) == list(range(len(subjects)))
        owners = [{subjects[i] for i in part} for part in parts]
        assert not owners[0] & owners[1]
        assert not owners[0] & owners[2]
        assert not owners[1] & owners[2]
        assert split.train


def test_the_folds_test_every_subject_once():
    tested: Counter[str] = Counter()
    for fold in range(4):
        split = make_split(SUBJECTS, SplitConfig(fold=fold), "north")
        tested.update({SUBJECTS[i] for i in split.test})
        assert len({SUBJECTS[i] for i in split.test}) == 5
        assert len({SUBJECTS[i] for i in split.val}) == 3  # ceil(0.15 * 15)
        assert len(split.train) == 2 * 12
    assert tested == dict.fromkeys(SUBJECTS, 1)


def test_the_split_depends_on_seed_and_site_and_not_on_the_order_of_cases():
    def by_name(subjects, split):
        return [{subjects[i] for i in part} for part in (split.train, split.val, split.test)]

    base = by_name(SUBJECTS, make_split(SUBJECTS, SplitConfig(), "north"))
    back = SUBJECTS[::-1]
    assert by_name(back, make_split(back, SplitConfig(), "north")) == base
    assert by_name(SUBJECTS, make_split(SUBJECTS, SplitConfig(seed=1), "north")) != base
    assert by_name(SUBJECTS, make_split(SUBJECTS, SplitConfig(), "south")) != base


def test_one_subject_trains_and_of_two_one_is_tested_in_every_fold():
    assert make_split(["a", "a"], SplitConfig(), "x") == Split((0, 1), (), ())
    for fold in range(4):
        split = make_split(["a", "b"], SplitConfig(fold=fold), "x")
        assert (len(split.train), len(split.val), len(split.test)) == (1, 0, 1)


def test_no_validation_share_leaves_no_validation():
    assert make_split(SUBJECTS, SplitConfig(val_fraction=0), "x").val == ()


def test_a_split_file_is_readable_and_reads_back(tmp_path):
    names = {"north": [(f"case{i}", s) for i, s in enumerate(SUBJECTS)]}
    split = make_split(SUBJECTS, SplitConfig(), "north")
    path = tmp_path / "run" / "splits.json"
    write_splits(path, {"north": split}, names)
    table = json.loads(path.read_text())
    first = split.test[0]
    assert table["north"]["test"][0] == {"case": f"case{first}", "subject": SUBJECTS[first]}
    assert read_splits(path, names) == {"north": split}
    assert [p.name for p in path.parent.iterdir()] == ["splits.json"]


def test_a_split_file_of_other_cases_is_refused(tmp_path):
    names = {"north": [("a", "a"), ("b", "b")]}
    path = tmp_path / "splits.json"
    write_splits(path, {"north": Split((0,), (), (1,))}, names)
    with pytest.raises(DataError, match=r"splits\.json.*'north' are not those on disk.*'b'"):
        read_splits(path, {"north": [("a", "a"), ("c", "c")]})
    with pytest.raises(DataError, match=r"splits\.json is no split file.*south"):
        read_splits(path, {"south": [("a", "a")]})
    path.write_text("{")
    with pytest.raises(DataError, match=r"splits\.json is no split file"):
        read_splits(path, names)


def prepared(masks: list[bool]) -> SimpleNamespace:
    cases = [
        SimpleNamespace(name=f"c{i}", subject=f"p{i // 2}", has_label=m)
        for i, m in enumerate(masks)
    ]
    return SimpleNamespace(cases=cases)


def test_a_role_decides_which_masks_are_used(tmp_path):
    site = prepared([True, True, False, True, True, True])
    train = (0, 1, 2, 3, 4)
    table = {"name": "x", "path": str(tmp_path)}
    assert labeled_positions(site, train, SiteSpec(role="unlabeled", **table)) == ()
    assert labeled_positions(site, train, SiteSpec(role="labeled", **table)) == (0, 1, 3, 4)
    assert labeled_positions(site, train, SiteSpec(role="mixed", **table)) == (0, 1, 3, 4)


def test_a_mixed_site_takes_whole_subjects_by_number_or_by_list(tmp_path):
    site = prepared([True] * 8)
    train = tuple(range(8))
    spec = SiteSpec(name="x", path=str(tmp_path), role="mixed", labeled=2)
    chosen = labeled_positions(site, train, spec)
    assert len(chosen) == 4
    assert len({site.cases[i].subject for i in chosen}) == 2
    more = labeled_positions(site, train, spec.model_copy(update={"labeled": 3}))
    assert set(chosen) < set(more)
    (tmp_path / "list.txt").write_text("p1\r\n\nc6\n")
    listed = labeled_positions(site, train, spec.model_copy(update={"labeled": "list.txt"}))
    assert listed == (2, 3, 6)


@pytest.mark.parametrize(
    ("labeled", "content", "message"),
    [
        (5, "", r"'x': labeled = 5, but .* only 4 subjects.*at most 4"),
        ("list.txt", None, r"'x': the list .*list\.txt of labeled subjects cannot be read"),
        ("list.txt", "\n", r"list\.txt names nobody; write one subject"),
        ("list.txt", "p1\np11\n", r"list\.txt names 'p11', which is no subject.*Did you mean 'p1'"),
    ],
)
def test_a_wrong_number_or_list_is_refused(tmp_path, labeled, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    spec = SiteSpec(name="x", path=str(tmp_path), role="mixed", labeled=labeled)
    with pytest.raises(DataError, match=message):
        labeled_positions(prepared([True] * 8), tuple(range(8)), spec)
