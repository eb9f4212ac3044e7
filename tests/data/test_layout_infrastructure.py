from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from fedssl.config import RunConfig, SplitConfig
from fedssl.data.case_files import decode
from fedssl.data.layouts import LAYOUTS, CaseFile, Layout
from fedssl.data.layouts.cases import BINARY, MaskCode, MaskLayer
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.prepare import PreparePlan, prepare
from fedssl.data.source import open_source
from fedssl.data.splits import Split, make_split
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Task

TASK = Task("t", ("background", "one", "two"))
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Open a site whose layout lists the given cases."""

    def open_cases(cases: list[CaseFile], *, task=TASK, published=None, **options):
        def lists(spec: SiteSpec) -> list[CaseFile]:
            return cases

        made = layout("made", options={"kind": "red or blue"}, published=published)(lists)
        monkeypatch.setitem(LAYOUTS, "made", made)
        spec = SiteSpec(
            name="north", path=str(tmp_path), role="unlabeled", layout="made", options=options
        )
        return open_source(spec, task)

    return open_cases


def test_ranges_of_mask_values_become_classes_and_other_values_are_refused():
    code = MaskCode(ranges=((0, 50, 2), (51, 200, 1), (255, 255, 0)))
    drawn = np.array([[0, 50, 51, 128], [200, 255, 255, 255]])
    np.testing.assert_array_equal(decode(drawn, code, Path("m.png")), [[2, 2, 1, 1], [1, 0, 0, 0]])
    with pytest.raises(DataError, match=r"m\.png holds the value 201,.*0\.\.50 = class 2"):
        decode(drawn + 1, code, Path("m.png"))


@pytest.mark.parametrize(
    ("values", "inverted", "expected"),
    [
        ([0, 1, 1, 0], "no", [0, 1, 1, 0]),
        ([0, 255, 128, 127], "no", [0, 1, 1, 0]),
        ([0, 0, 0, 0], "no", [0, 0, 0, 0]),
        ([255, 0, 255, 255], "yes", [0, 1, 0, 0]),
    ],
)
def test_a_binary_mask_is_cut_at_half_of_a_byte_or_above_zero(values, inverted, expected):
    array = decode(np.array([values]), MaskCode(inverted=inverted), Path("m.png"))
    np.testing.assert_array_equal(array, [expected])


def test_white_corners_tell_that_a_mask_is_inverted():
    code = MaskCode(inverted="corners")
    disc = np.full((5, 5), 255)
    disc[2, 2] = 0
    expected = (disc == 0).astype(int)
    np.testing.assert_array_equal(decode(disc, code, Path("m.png")), expected)
    np.testing.assert_array_equal(decode(255 - disc, code, Path("m.png")), expected)
    empty = np.full((5, 5), 255)
    np.testing.assert_array_equal(decode(empty, code, Path("m.png")), np.zeros((5, 5)))


def test_layers_are_painted_one_over_the_other(source, tmp_path, write_image):
    write_image(tmp_path / "a.png", GREY)
    write_image(tmp_path / "left.png", (GREY < 6).astype(np.uint8) * 255)
    write_image(tmp_path / "right.png", ((GREY > 4) & (GREY < 9)).astype(np.uint8))
    layers = (MaskLayer(tmp_path / "left.png", 1), MaskLayer(tmp_path / "right.png", 2))
    opened = source([CaseFile("a", "a", tmp_path / "a.png", layers=layers)])
    assert opened.cases[0].has_label
    expected = [[1, 1, 1, 1], [1, 2, 2, 2], [2, 0, 0, 0]]
    np.testing.assert_array_equal(opened.read(0).label, expected)
    key = opened.content_key()
    turned = source([CaseFile("a", "a", tmp_path / "a.png", layers=layers[::-1])])
    assert turned.content_key() != key
    write_image(tmp_path / "right.png", GREY[:2])
    with pytest.raises(DataError, match=r"right\.png has the shape \(2, 4\), but .*left\.png"):
        opened.read(0)


def test_further_files_are_further_channels(source, tmp_path, write_image):
    for i in range(2):
        write_image(tmp_path / f"a{i}.png", GREY + i)
    case = CaseFile("a", "a", tmp_path / "a0.png", more_images=(tmp_path / "a1.png",))
    opened = source([case], task=Task("t", ("b", "f"), channels=2))
    np.testing.assert_array_equal(opened.read(0).image, np.stack([GREY, GREY + 1]))
    key = opened.content_key()
    write_image(tmp_path / "a1.png", GREY[:2])
    assert opened.content_key() != key
    with pytest.raises(DataError, match=r"a1\.png has the shape \(2, 4\), but .*a0\.png"):
        opened.read(0)


def test_a_lossy_grey_mask_is_read_and_one_in_colours_is_refused(source, tmp_path, write_image):
    write_image(tmp_path / "a.png", np.zeros((16, 16), dtype=np.uint8))
    drawn = np.zeros((16, 16, 3), dtype=np.uint8)
    drawn[4:11, 3:9] = 255
    write_image(tmp_path / "m.jpg", drawn, vector=True)
    case = CaseFile("a", "a", tmp_path / "a.png", tmp_path / "m.jpg", code=BINARY)
    two = Task("t", ("b", "f"))
    np.testing.assert_array_equal(source([case], task=two).read(0).label, drawn[..., 0] > 0)
    with pytest.raises(DataError, match=r"m\.jpg holds the value \d+, which stands for no class"):
        source([case]).read(0)
    drawn[..., 2] = 0
    write_image(tmp_path / "m.jpg", drawn, vector=True)
    with pytest.raises(DataError, match=r"m\.jpg is a mask in real colours"):
        source([case]).read(0)


def test_a_class_beyond_the_task_is_refused_and_label_values_override_the_code(
    source, tmp_path, write_image
):
    write_image(tmp_path / "a.png", GREY)
    write_image(tmp_path / "m.png", np.array([[0, 128, 255, 255]] * 3, dtype=np.uint8))
    code = MaskCode(ranges=((0, 50, 2), (51, 200, 1), (201, 255, 0)))
    case = CaseFile("a", "a", tmp_path / "a.png", tmp_path / "m.png", code=code)
    np.testing.assert_array_equal(source([case]).read(0).label, [[2, 1, 0, 0]] * 3)
    with pytest.raises(DataError, match=r"m\.png: the layout 'made' reads the classes 0\.\.2"):
        source([case], task=Task("t", ("b", "f"))).read(0)
    turned = source([case], **{"label-values": "0,128,255"})
    np.testing.assert_array_equal(turned.read(0).label, [[0, 1, 2, 2]] * 3)


def test_an_unknown_option_is_refused_with_the_known_ones(source, tmp_path):
    cases = [CaseFile("a", "a", tmp_path / "a.png")]
    with pytest.raises(
        DataError,
        match=r"'north': the layout 'made' has no option 'kin'\. Did you mean 'kind'\?.*"
        r"kind: red or blue; label-values: .*; split: published",
    ):
        source(cases, kin="red")
    with pytest.raises(DataError, match=r"option split = 'none' is unknown.*published, folds"):
        source(cases, split="none")


def test_a_choice_names_what_is_known():
    spec = SiteSpec(name="north", role="labeled", options={"kind": "rde"})
    with pytest.raises(DataError, match=r"'north': option kind = 'rde' is unknown.*red, blue"):
        choice(spec, "kind", ("red", "blue"), "red")
    assert choice(spec, "other", ("red", "blue"), "red") == "red"


def test_no_cases_and_two_of_one_name_are_refused(source, tmp_path):
    with pytest.raises(DataError, match=r"'north': .* holds no images of made"):
        source([])
    twice = [CaseFile("a", "a", tmp_path / f"{i}" / "a.png") for i in range(2)]
    with pytest.raises(DataError, match="holds two cases of the name 'a'; keep one"):
        source(twice)


def test_counts_other_than_the_published_ones_are_logged(source, tmp_path, caplog):
    cases = [CaseFile(n, n, tmp_path / n, split="test") for n in ("b", "a")]
    published = {"images": 3, "test": 2, "masks": 1, "train": 1}
    with caplog.at_level(logging.WARNING, "fedssl"):
        opened = source(cases, published=published)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"Site 'north': made is published with 3 images, 2 are in {tmp_path}. Look whether files "
        "are missing, if this is not on purpose. 1 more of its counts differ."
    )
    labeled = opened.spec.model_copy(update={"role": "labeled"})
    lines = LAYOUTS["made"].differences(labeled)
    assert [line.split(" are ")[0].split("with ")[1] for line in lines] == [
        "3 images, 2",
        "1 masks, 0",
        "1 train, 0",
    ]
    assert [c.name for c in opened.cases] == ["a", "b"]
    assert isinstance(LAYOUTS["made"], Layout)


def test_a_published_split_reaches_the_prepared_site_unless_folds_are_asked_for(
    source, tmp_path, write_image
):
    cases = [CaseFile(n, n, tmp_path / f"{n}.png", split=s) for n, s in (("a", "test"), ("b", ""))]
    for case in cases:
        write_image(case.image, GREY)
    plan = PreparePlan.from_run(RunConfig(), TASK)
    site = prepare(source(cases), plan, tmp_path / "cache")
    assert [c.split for c in site.cases] == ["test", ""]
    site = prepare(source(cases, split="folds"), plan, tmp_path / "cache")
    assert [c.split for c in site.cases] == ["", ""]


def test_a_published_split_is_used_and_cuts_no_subject():
    subjects = ["p", "q", "q", "r", "s", "t"]
    published = ["test", "train", "test", "val", "train", ""]
    split = make_split(subjects, SplitConfig(), "x", published)
    assert split == Split(train=(4, 5), val=(3,), test=(0, 1, 2))
    by_share = make_split(subjects, SplitConfig(), "x", ["test", "", "", "", "", ""])
    assert by_share.test == (0,)
    assert len({subjects[i] for i in by_share.val}) == 1  # ceil(0.15 * 4)
    assert len({subjects[i] for i in by_share.train}) == 3


def test_a_published_split_that_leaves_no_training_or_meets_folds_is_refused():
    with pytest.raises(DataError, match=r"'x': every subject has a case in the published .*folds"):
        make_split(["p", "p"], SplitConfig(), "x", ["train", "test"])
    with pytest.raises(DataError, match=r"'x': split\.fold = 2, .*options = \{ split = \"folds\""):
        make_split(["p", "q"], SplitConfig(fold=2), "x", ["train", "test"])
