from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedssl.data.layouts import LAYOUTS
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

list_cases = LAYOUTS["folders"]


def site(tmp_path: Path, images: list[str], labels: list[str] | None = None, **table) -> SiteSpec:
    folder = tmp_path / "north"
    for part, names in (("images", images), ("labels", labels)):
        for name in names or []:
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / name).write_bytes(b"")
    folder.mkdir(exist_ok=True)
    return SiteSpec(name="north", path=str(folder), role="labeled", **table)


def test_images_and_masks_pair_by_stem_and_come_sorted(tmp_path):
    cases = list_cases(site(tmp_path, ["b.png", "a.nii.gz", "c.jpg"], ["a.nii.gz", "c.png"]))
    assert [c.name for c in cases] == ["a", "b", "c"]
    assert [c.subject for c in cases] == ["a", "b", "c"]
    assert [c.label.name if c.label else None for c in cases] == ["a.nii.gz", None, "c.png"]
    assert [c.image.name for c in cases] == ["a.nii.gz", "b.png", "c.jpg"]


def test_a_site_without_masks_needs_no_labels_folder(tmp_path):
    assert [c.label for c in list_cases(site(tmp_path, ["a.png"]))] == [None]


def test_hidden_files_system_files_notes_and_folders_are_passed_over(tmp_path):
    spec = site(tmp_path, ["a.mhd", "a.raw", ".DS_Store", "._a.png", "Thumbs.db", "readme.txt"])
    (Path(spec.path) / "images" / "__MACOSX").mkdir()
    assert [c.name for c in list_cases(spec)] == ["a"]


def test_the_channel_suffix_of_nnunet_is_dropped_if_every_image_has_it(tmp_path):
    cases = list_cases(site(tmp_path, ["x_0000.nii.gz", "y_0000.nii.gz"], ["x.nii.gz"]))
    assert [(c.name, c.label is not None) for c in cases] == [("x", True), ("y", False)]


def test_numbered_frames_keep_their_numbers(tmp_path):
    names = ["frame_0000.png", "frame_0001.png"]
    assert [c.name for c in list_cases(site(tmp_path, names, names))] == [
        "frame_0000",
        "frame_0001",
    ]


def test_channels_in_separate_files_are_refused(tmp_path):
    spec = site(tmp_path, ["x_0000.nii.gz", "x_0001.nii.gz"], ["x.nii.gz"])
    with pytest.raises(DataError, match=r"images holds several channels of 'x'.*merge them"):
        list_cases(spec)


def test_a_mask_suffix_is_dropped(tmp_path):
    cases = list_cases(site(tmp_path, ["a.png", "b_mask.png"], ["a_mask.png", "b_mask.png"]))
    assert [(c.name, c.label.name) for c in cases] == [
        ("a", "a_mask.png"),
        ("b_mask", "b_mask.png"),
    ]


def test_options_rename_the_folders(tmp_path):
    spec = site(tmp_path, [], options={"images": "CXR_png", "labels": "masks"})
    for part in ("CXR_png", "masks"):
        (Path(spec.path) / part).mkdir()
        (Path(spec.path) / part / "a.png").write_bytes(b"")
    assert [(c.name, c.label is not None) for c in list_cases(spec)] == [("a", True)]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([], ["a.png"], r"'north'.*north has no folder 'images'\. Put the images into"),
        (["note.txt"], [], r"'north'.*images holds no images"),
        (
            ["a.png"],
            ["a.png", "z.png", "y.png"],
            r"labels holds 2 masks without an image.*y\.png, z",
        ),
        (["a.png", "a.jpg"], [], r"'a\.jpg' and 'a\.png', which name the same case; keep one"),
        (["A.png", "a.png"], [], r"'A\.png' and 'a\.png', which name the same case"),
        (["a.png"], ["a.png", "a_mask.png"], r"labels holds two masks of 'a\.png'.*keep one"),
        (["a.png", "b.webp"], [], r"b\.webp is of no supported type; convert it.*\.nii\.gz"),
    ],
)
def test_ambiguous_or_empty_folders_are_refused_by_name(tmp_path, images, labels, message):
    with pytest.raises(DataError, match=message):
        list_cases(site(tmp_path, images, labels))


def test_a_missing_site_folder_and_a_missing_path_are_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"'x': the folder .*nowhere does not exist.*FEDSSL_DATA"):
        list_cases(SiteSpec(name="x", path=str(tmp_path / "nowhere"), role="labeled"))
    with pytest.raises(DataError, match=r"Site 'x' has no path; set path ="):
        list_cases(SiteSpec(name="x", role="labeled"))


def test_links_to_nowhere_and_in_circles_are_refused(tmp_path):
    spec = site(tmp_path, ["a.png"])
    link = Path(spec.path) / "images" / "b.png"
    link.symlink_to(link)
    with pytest.raises(DataError, match=r"b\.png is a link that leads nowhere"):
        list_cases(spec)
    link.unlink()
    link.symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"b\.png is a link that leads nowhere"):
        list_cases(spec)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    spec = site(tmp_path, ["a.png"])
    folder = Path(spec.path) / "images"
    folder.chmod(0)
    try:
        with pytest.raises(DataError, match="images cannot be listed: Permission denied"):
            list_cases(spec)
    finally:
        folder.chmod(0o700)


INDEX = "site,id,subject\nnorth,a,p1\nnorth,b.png,p1\nsouth,a,q9\n"


@pytest.mark.parametrize("place", ["north/index.csv", "index.csv"])
def test_subjects_come_from_the_index_beside_or_above_the_site(tmp_path, place):
    spec = site(tmp_path, ["a.png", "b.png"])
    text = INDEX if place == "index.csv" else INDEX.replace("south,a,q9\n", "")
    (tmp_path / place).write_text("\ufeff" + text, encoding="utf-8")
    assert [c.subject for c in list_cases(spec)] == ["p1", "p1"]


def test_an_index_about_other_sites_says_nothing_about_this_one(tmp_path, caplog):
    spec = site(tmp_path, ["a.png"])
    (tmp_path / "index.csv").write_text("site,id,subject\nsouth,a,q9\n")
    assert [c.subject for c in list_cases(spec)] == ["a"]
    assert "lists all images of" in caplog.text
    assert "'north'" in caplog.text


def test_an_index_without_sites_above_the_only_site_counts(tmp_path):
    spec = site(tmp_path, ["a.png", "b.png"])
    (tmp_path / "index.csv").write_text("id,subject\na,p1\nb,p1\n")
    assert [c.subject for c in list_cases(spec)] == ["p1", "p1"]
    (tmp_path / "index.csv").write_text("id,subject\nx,p1\ny,p1\n")
    assert [c.subject for c in list_cases(spec)] == ["a", "b"]


def test_an_index_may_call_a_site_as_the_federation_does(tmp_path):
    spec = site(tmp_path, ["a.png", "b.png"]).model_copy(update={"name": "hospital-1"})
    index = "site,id,subject\nhospital-1,a,p1\nhospital-1,b,p1\nsouth,a,q9\n"
    (tmp_path / "index.csv").write_text(index)
    assert [c.subject for c in list_cases(spec)] == ["p1", "p1"]


def test_an_index_in_the_sites_folder_may_serve_others_too(tmp_path):
    spec = site(tmp_path, ["a.png", "b.png"])
    (tmp_path / "north/index.csv").write_text(INDEX)
    assert [c.subject for c in list_cases(spec)] == ["p1", "p1"]


def test_accents_pair_however_a_system_writes_them(tmp_path):
    composed, decomposed = "\u00e9 1", "e\u0301 1"
    spec = site(tmp_path, [f"{composed}.png"], [f"{decomposed}.png"])
    (tmp_path / "north/index.csv").write_text(f"id,subject\n{decomposed},p1\n", encoding="utf-8")
    (case,) = list_cases(spec)
    assert (case.name, case.subject, case.label is not None) == (composed, "p1", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site,id,subject\nnorth,a,p1\n", r"index\.csv has no row for 'b' \(1 cases are missing\)"),
        ("site,id,subject\nnorth,a,p1\nnorth,a,p2\n", r"gives 'a' two subjects: 'p1' and 'p2'"),
        ("site,id\nnorth,a\n", r"index\.csv has no column 'subject'; needed are id, subject"),
        ("site,id,subject\nnorth,a,\n", r"index\.csv needs the columns id and subject"),
        (b"site,id,subject\nnorth,\xff,x\n", r"index\.csv cannot be read as CSV in UTF-8"),
    ],
)
def test_a_broken_index_is_refused_by_name(tmp_path, text, message):
    spec = site(tmp_path, ["a.png", "b.png"])
    (tmp_path / "index.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        list_cases(spec)


def test_an_index_as_spreadsheets_save_it_is_read(tmp_path):
    spec = site(tmp_path, ["a.png", "b.png"])
    (tmp_path / "north/index.csv").write_text("id;subject\na;p1\nb;p1\n")
    assert [c.subject for c in list_cases(spec)] == ["p1", "p1"]


def test_masks_are_paired_whatever_the_case(tmp_path):
    (case,) = list_cases(site(tmp_path, ["IMG_1.PNG"], ["img_1_Mask.png"]))
    assert (case.name, case.label.name) == ("IMG_1", "img_1_Mask.png")


def test_images_in_folders_of_their_own_are_not_passed_over(tmp_path):
    spec = site(tmp_path, ["a.png"])
    images = Path(spec.path) / "images"
    (images / "notes").mkdir()
    (images / "notes/readme.txt").write_text("?")
    assert [c.name for c in list_cases(spec)] == ["a"]
    (images / "p2").mkdir()
    (images / "p2/IM0001").write_bytes(b"")  # a series that was copied without content
    with pytest.raises(DataError, match=r"IM0001 lies in a folder of its own.*images itself"):
        list_cases(spec)


def test_masks_may_lie_in_a_folder_below_the_images(tmp_path):
    spec = site(tmp_path, ["a.png"], options={"labels": "images/masks"})
    (Path(spec.path) / "images/masks").mkdir()
    (Path(spec.path) / "images/masks/a.png").write_bytes(b"")
    assert [c.label is not None for c in list_cases(spec)] == [True]
    here = site(tmp_path, [], options={"images": ".", "labels": "images/masks"})
    (Path(here.path) / "b.png").write_bytes(b"")
    (Path(here.path) / "site.toml").write_text("")
    (Path(here.path) / "images/masks/a.png").rename(Path(here.path) / "images/masks/b.png")
    assert [(c.name, c.label is not None) for c in list_cases(here)] == [("b", True)]


def test_shards_part_the_subjects_and_never_cut_one(tmp_path):
    names = [f"s{i}_{side}.png" for i in range(5) for side in "LR"]
    spec = site(tmp_path, names)
    rows = "".join(f"north,{n},{n[:2]}\n" for n in names)
    (tmp_path / "index.csv").write_text("site,id,subject\n" + rows)
    shards = [list_cases(spec.model_copy(update={"shard": (i, 3)})) for i in range(3)]
    assert [sorted({c.subject for c in shard}) for shard in shards] == [
        ["s0", "s3"],
        ["s1", "s4"],
        ["s2"],
    ]
    assert sorted(c.name for shard in shards for c in shard) == sorted(n[:-4] for n in names)
    with pytest.raises(DataError, match=r"'north': shard \[6, 7\] is empty.*only 5 subjects"):
        list_cases(spec.model_copy(update={"shard": (6, 7)}))


@pytest.mark.parametrize(
    ("folder", "cases", "subjects"),
    [
        ("lgg_flair_3d/tcga_cs", 13, 13),
        ("la_2018_half/utah", 80, 80),
        ("hippocampus_msd/vanderbilt", 104, 104),
        ("retina_vessels/chase_db1", 22, 11),
    ],
)
def test_the_real_data_sets_list_as_their_papers_count(real_data, folder, cases, subjects):
    spec = SiteSpec(name="any", path=str(real_data / folder), role="labeled")
    listed = list_cases(spec)
    assert len(listed) == cases
    assert len({c.subject for c in listed}) == subjects
    assert all(c.label is not None for c in listed)
