from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

MASK = np.zeros((6, 8), dtype=np.uint8)
MASK[2:4, 1:5] = 255


@pytest.fixture
def folder(tmp_path, write_image, picture):
    for name in "abcd":
        write_image(tmp_path / "data" / "imgs" / f"{name}.png", picture)
        write_image(tmp_path / "data" / "segs" / f"{name}.png", MASK)
    return tmp_path / "data"


def write(folder, name, *rows):
    (folder / name).write_text("\r\n".join(rows) + "\r\n\r\n", encoding="utf-8")


@pytest.mark.parametrize(
    "header", ["image_path,mask_path", "img_path,seg_path", "IMG_PATH,SEG_PATH", None]
)
def test_both_pairs_of_column_names_and_none_are_read(folder, open_layout, header):
    rows = ["imgs/a.png,segs/a.png", "imgs\\b.png,"]
    write(folder, "train.csv", *([header] if header else []), *rows)
    source = open_layout("csv", folder)
    assert [(c.name, c.has_label, c.split) for c in source.cases] == [
        ("a", True, ""),
        ("b", False, ""),
    ]
    np.testing.assert_array_equal(source.read(0).label, MASK > 0)


def test_the_lists_are_the_split_and_unlabeled_images_train(folder, open_layout):
    write(folder, "train.csv", "image_path,mask_path,patient_id", "imgs/a.png,segs/a.png,p1")
    write(folder, "unlabeled.csv", "image_path,mask_path", "imgs/b.png,segs/b.png")
    write(folder, "val.csv", "image_path,mask_path", "imgs/c.png,segs/c.png")
    write(folder, "held_out.csv", "image_path,mask_path", "imgs/d.png,segs/d.png")
    source = open_layout("csv", folder, test="held_out.csv")
    assert [(c.name, c.subject, c.has_label, c.split) for c in source.cases] == [
        ("a", "p1", True, "train"),
        ("b", "b", False, ""),
        ("c", "c", True, "val"),
        ("d", "d", True, "test"),
    ]


def test_an_unlabeled_list_needs_one_column_of_any_name(folder, open_layout):
    write(folder, "shard0.csv", "filename", "imgs/c.png", "imgs/d.png")
    source = open_layout("csv", folder, role="unlabeled", unlabeled="shard0.csv")
    assert [(c.name, c.has_label) for c in source.cases] == [("c", False), ("d", False)]


def test_paths_may_start_elsewhere(folder, open_layout):
    (folder / "splits").mkdir()
    write(folder, "splits/fold0.csv", "image_path,mask_path", "imgs/a.png,segs/a.png")
    with pytest.raises(DataError, match=r"fold0\.csv, row 2: .*splits/imgs/a\.png does not exist"):
        open_layout("csv", folder, train="splits/fold0.csv")
    source = open_layout("csv", folder, train="splits/fold0.csv", root=".")
    assert [c.name for c in source.cases] == ["a"]


def test_equal_names_in_two_folders_are_told_apart(folder, open_layout, write_image, picture):
    write_image(folder / "more" / "a.png", picture)
    write(folder, "train.csv", "image_path,mask_path", "imgs/a.png,segs/a.png", "more/a.png,")
    assert [c.name for c in open_layout("csv", folder).cases] == ["imgs_a", "more_a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"train\.csv lists nothing"),
        (["image_path,mask_path", ",segs/a.png"], r"train\.csv, row 2 names no image"),
        (["image_path,mask_path", "imgs/a.png,segs/z.png"], r"row 2: .*segs/z\.png does not exist"),
        (
            ["image_path", "imgs/a.png", "imgs/a.png"],
            r"imgs/a\.png, which is listed already",
        ),
    ],
)
def test_a_broken_list_is_refused_with_its_row(folder, open_layout, rows, message):
    write(folder, "train.csv", *rows)
    with pytest.raises(DataError, match=message):
        open_layout("csv", folder)


def test_an_image_in_two_lists_and_missing_lists_are_refused(folder, open_layout):
    with pytest.raises(DataError, match=r"no csv tree; expected train\.csv or another list"):
        open_layout("csv", folder)
    write(folder, "train.csv", "image_path,mask_path", "imgs/a.png,segs/a.png")
    write(folder, "test.csv", "image_path,mask_path", "imgs/../imgs/a.png,segs/a.png")
    with pytest.raises(DataError, match=r"test\.csv lists .*a\.png, which is listed already"):
        open_layout("csv", folder)
    with pytest.raises(DataError, match=r"its list .*none\.csv does not exist"):
        open_layout("csv", folder, val="none.csv")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_lists_as_spreadsheets_save_them_are_read(folder, open_layout, mark):
    write(folder, "train.csv", f"image_path{mark}mask_path", f"imgs/a.png{mark}segs/a.png")
    assert [(c.name, c.has_label) for c in open_layout("csv", folder).cases] == [("a", True)]


def test_masks_in_a_column_of_an_unknown_name_are_not_passed_over(folder, open_layout):
    write(folder, "train.csv", "filename,annotation,age", "imgs/a.png,segs/a.png,40")
    with pytest.raises(DataError, match=r"files in the column 'annotation'.*call it mask_path"):
        open_layout("csv", folder)


def test_a_path_longer_than_any_file_name_is_refused(folder, open_layout):
    write(folder, "train.csv", "image_path", "x" * 5000)
    with pytest.raises(DataError, match=r"train\.csv, row 2: .*xxx does not exist"):
        open_layout("csv", folder)


def test_links_keep_their_names_and_are_not_listed_twice(folder, open_layout):
    stored = (folder / "imgs/a.png").rename(folder / "7f3a")
    (folder / "imgs/a.png").symlink_to(stored)
    write(folder, "train.csv", "image_path,mask_path", "imgs/a.png,segs/a.png")
    assert [case.name for case in open_layout("csv", folder).cases] == ["a"]
    (folder / "imgs/again.png").symlink_to(stored)
    write(folder, "val.csv", "image_path,mask_path", "imgs/again.png,segs/a.png")
    with pytest.raises(DataError, match=r"which is listed already \(train\)"):
        open_layout("csv", folder)


def test_a_folder_where_the_command_runs_does_not_make_a_header_a_row(
    folder, open_layout, tmp_path, monkeypatch
):
    write(folder, "train.csv", "image,mask", "imgs/a.png,segs/a.png")
    (tmp_path / "elsewhere/image").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(open_layout("csv", folder).cases) == 1
