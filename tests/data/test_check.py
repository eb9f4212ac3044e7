"""A check tells every problem of a site at once, and nothing about a site without problems."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from fedssl.data.check import check_site, check_together
from fedssl.data.check_findings import Level
from fedssl.data.check_json import report_table
from fedssl.federation import SiteSpec
from fedssl.types import Output, Task

VOLUMES = Task("t", ("background", "organ"), mode="3d")
FUNDUS = Task("f", ("background", "disc", "cup"), output=Output.NESTED)


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, (6, 12, 14)).astype(np.float32)


def blob(seed: int) -> np.ndarray:
    mask = np.zeros((6, 12, 14), dtype=np.uint8)
    mask[2:4, 3 : 6 + seed % 3, 4:9] = 1
    return mask


@pytest.fixture
def site(tmp_path, write_image):
    """Six volumes with masks, 0.8 x 0.8 x 2.5 mm."""
    for i in range(6):
        spacing = (0.8, 0.8, 2.5)
        write_image(tmp_path / f"s/images/c{i}.nii.gz", volume(i), spacing=spacing)
        write_image(tmp_path / f"s/labels/c{i}.nii.gz", blob(i), spacing=spacing)
    return SiteSpec(name="s", path=str(tmp_path / "s"), role="labeled")


def kinds(report) -> Counter:
    return Counter((f.level.value, f.kind) for f in report.findings)


def test_a_sound_site_has_no_findings_and_its_numbers_are_right(site):
    done = []
    report = check_site(site, VOLUMES, progress=lambda *step: done.append(step))
    assert report.findings == ()
    assert done == [("s", i + 1, 6) for i in range(6)]
    table = report_table([report], [])
    assert (table["ok"], table["errors"], table["warnings"]) == (True, 0, 0)
    (row,) = table["sites"]
    assert (row["cases"], row["masks"], row["subjects"]) == (6, 6, 6)
    found = row["statistics"]
    assert found["size"]["depth"] == {"min": 6, "median": 6, "max": 6}
    assert found["spacing"]["depth"]["median"] == pytest.approx(2.5)
    assert found["spacing_units"] == ["mm"]
    images = np.stack([volume(i) for i in range(6)])
    assert found["intensity"]["mean"] == pytest.approx(images.mean(), rel=1e-6)
    assert found["intensity"]["std"] == pytest.approx(images.std(), rel=1e-4)
    assert found["intensity"]["max"] == pytest.approx(images.max())
    share = np.mean([blob(i).mean() for i in range(6)])
    assert found["classes"][1] == {
        "value": 1,
        "name": "organ",
        "fraction": pytest.approx(share),
        "masks": 6,
    }


def test_all_problems_are_told_at_once(site, tmp_path, write_image):
    folder = tmp_path / "s"
    (folder / "images/c0.nii.gz").write_bytes((folder / "images/c0.nii.gz").read_bytes()[:100])
    (folder / "labels/c0.nii.gz").write_bytes(b"nonsense")
    write_image(folder / "labels/c1.nii.gz", blob(1)[:, :, :-1], spacing=(0.8, 0.8, 2.5))
    write_image(folder / "labels/c2.nii.gz", blob(2), spacing=(0.8, 0.8, 5.0))
    write_image(
        folder / "labels/c3.nii.gz", blob(3), spacing=(0.8, 0.8, 2.5), origin=(3.0, 0.0, 0.0)
    )
    write_image(folder / "labels/c4.nii.gz", blob(4) * 0, spacing=(0.8, 0.8, 2.5))
    write_image(folder / "labels/c5.nii.gz", blob(5) * 3, spacing=(0.8, 0.8, 2.5))
    write_image(folder / "images/d0.nii.gz", volume(0) * 0 + 7, spacing=(0.8, 0.8, 2.5))
    write_image(folder / "images/d1.mha", volume(3), spacing=(0.8, 0.8, 2.5))
    shutil.copy(folder / "images/c4.nii.gz", folder / "images/d2.nii.gz")
    report = check_site(site, VOLUMES)
    assert kinds(report) == {
        ("error", "image"): 1,  # c0 is cut off
        ("error", "mask"): 3,  # c0 is nonsense, c1 has another shape, c5 an unknown value
        ("error", "geometry"): 1,  # c2
        ("error", "duplicate"): 2,  # c3 as d1 by pixels, c4 as d2 by bytes
        ("warning", "geometry"): 1,  # c3
        ("warning", "empty-mask"): 1,  # c4
        ("warning", "constant"): 1,  # d0
        ("warning", "role"): 1,  # not all have a mask
    }
    levels = [f.level for f in report.findings]
    assert levels == sorted(levels)  # errors first
    of = {(f.kind, Path(f.file).name) for f in report.findings}
    assert ("mask", "c0.nii.gz") in of
    assert ("mask", "c5.nii.gz") in of
    assert all(f.detail and f.remedy for f in report.findings)
    # images whose mask is broken are measured all the same
    assert {f.name for f in report.facts} == {"c1", "c2", "c3", "c4", "c5", "d0", "d1", "d2"}
    assert [f.voxels for f in report.facts if f.name == "c5"] == [None]


def test_two_copies_of_one_subject_are_a_warning_only(site, tmp_path):
    folder = tmp_path / "s"
    shutil.copy(folder / "images/c4.nii.gz", folder / "images/d4.nii.gz")
    rows = "".join(f"c{i},p{i}\n" for i in range(6)) + "d4,p4\n"
    (folder / "index.csv").write_text("id,subject\n" + rows)
    (found,) = check_site(site, VOLUMES).findings
    assert (found.level, found.kind) == (Level.WARNING, "duplicate")


def test_a_labeled_site_with_images_that_nobody_segmented_is_warned_of(site, tmp_path):
    next(iter(sorted((tmp_path / "s/labels").iterdir()))).unlink()
    (found,) = check_site(site, VOLUMES).findings
    assert (found.kind, found.level) == ("role", Level.WARNING)
    assert "1 of 6 subjects have no mask" in found.detail
    assert 'role = "mixed"' in found.remedy


def test_what_a_layout_says_is_split_behind_the_site_s_name(tmp_path):
    pictures = SiteSpec(name="s", path=str(tmp_path / "nowhere"), role="labeled")
    (found, *_) = check_site(pictures, VOLUMES).findings
    assert found.detail != "Site 's'."
    assert str(tmp_path / "nowhere") in found.detail


def test_roles_that_masks_do_not_allow_are_errors(site, tmp_path):
    greedy = site.model_copy(update={"role": "mixed", "labeled": 7})
    (found,) = check_site(greedy, VOLUMES).findings
    assert (found.kind, found.level) == ("role", Level.ERROR)
    assert "only 6 subjects have masks" in found.detail
    listed = site.model_copy(update={"role": "mixed", "labeled": "who.txt"})
    (tmp_path / "s/who.txt").write_text("c0\nnobody\n")
    (found,) = check_site(listed, VOLUMES).findings
    assert "'nobody'" in found.detail
    shutil.rmtree(tmp_path / "s/labels")
    assert kinds(check_site(site, VOLUMES)) == {("error", "role"): 1}
    assert check_site(site.model_copy(update={"role": "unlabeled"}), VOLUMES).findings == ()


def test_a_folder_of_no_known_form_is_one_error_and_its_files_are_read(site, tmp_path):
    (tmp_path / "s/images").rename(tmp_path / "s/pictures")
    (tmp_path / "s/pictures/c0.nii.gz").write_bytes(b"")
    report = check_site(site, VOLUMES)
    assert kinds(report) == {("error", "layout"): 1, ("error", "image"): 1}
    assert "has no folder 'images'" in report.findings[0].detail
    nowhere = site.model_copy(update={"path": str(tmp_path / "nowhere")})
    assert kinds(check_site(nowhere, VOLUMES)) == {("error", "layout"): 1}


def test_a_class_that_occurs_in_no_mask_is_a_warning(site):
    three = Task("t", ("background", "organ", "tumor"), mode="3d")
    (found,) = check_site(site, three).findings
    assert (found.level, found.kind) == (Level.WARNING, "class")
    assert "'tumor'" in found.detail


def test_pictures_have_no_grid_to_compare_and_a_cup_has_to_be_in_its_disc(tmp_path, write_image):
    label = np.zeros((30, 30), dtype=np.uint8)
    label[5:15, 5:15] = 1
    label[20:25, 20:25] = 2
    picture = np.random.default_rng(0).integers(0, 255, (30, 30)).astype(np.uint8)
    write_image(tmp_path / "images/a.png", picture, spacing=(0.3, 0.3))
    write_image(tmp_path / "labels/a.png", label)
    report = check_site(SiteSpec(name="s", path=str(tmp_path), role="labeled"), FUNDUS)
    assert kinds(report) == {("error", "nesting"): 1}


def test_sites_that_all_lack_masks_cannot_be_trained_on(site):
    north = check_site(site.model_copy(update={"role": "unlabeled"}), VOLUMES)
    south = check_site(site.model_copy(update={"role": "unlabeled", "name": "south"}), VOLUMES)
    assert [f.kind for f in check_together([north])] == []
    assert ("role", Level.ERROR) in [(f.kind, f.level) for f in check_together([north, south])]


def test_one_picture_or_subject_at_two_sites_is_told(site, tmp_path):
    other = tmp_path / "t"
    (other / "images").mkdir(parents=True)
    shutil.copy(tmp_path / "s/images/c2.nii.gz", other / "images/x.nii.gz")
    shutil.copy(tmp_path / "s/images/c3.nii.gz", other / "images/c3.nii.gz")
    second = SiteSpec(name="t", path=str(other), role="unlabeled")
    reports = [check_site(s, VOLUMES) for s in (site, second)]
    assert [r.findings for r in reports] == [(), ()]
    found = check_together(reports)
    assert [(f.level.value, f.kind) for f in found] == [
        ("error", "duplicate"),
        ("error", "duplicate"),
        ("warning", "subject"),
    ]
    assert "s and t: 'c3'" in found[-1].detail
    assert not report_table(reports, found)["ok"]


def test_synthetic_sites_pass():
    task = Task("f", ("background", "disc", "cup"), output=Output.NESTED, channels=3)
    options = {"kind": "fundus", "look": 0, "images": 6, "size": 48}
    spec = SiteSpec(name="n", role="labeled", layout="synthetic", options=options)
    report = check_site(spec, task)
    assert report.findings == ()
    assert len(report.facts) == 6


def test_a_mask_that_is_cut_off_does_not_end_the_check(site, tmp_path):
    mask = tmp_path / "s/labels/c2.nii.gz"
    mask.write_bytes(mask.read_bytes()[:60])
    report = check_site(site, VOLUMES)
    (found,) = report.findings
    assert (found.level, found.kind, found.file) == (Level.ERROR, "mask", str(mask))
    assert len(report.facts) == 6


def test_pictures_of_one_value_are_no_duplicates_of_each_other(tmp_path, write_image):
    for i in range(3):
        write_image(tmp_path / f"images/{i}.png", np.zeros((30, 30), dtype=np.uint8))
    report = check_site(SiteSpec(name="s", path=str(tmp_path), role="unlabeled"), FUNDUS)
    assert kinds(report) == {("warning", "constant"): 3}


def test_what_a_layout_leaves_out_is_told(tmp_path):
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["image"] = volume(ord(name))
    (tmp_path / "train.list").write_text("a\nc\n")
    spec = SiteSpec(name="s", path=str(tmp_path), role="unlabeled", layout="h5")
    findings = check_site(spec, VOLUMES).findings
    assert {(f.level, f.kind) for f in findings} == {(Level.WARNING, "layout")}
    assert [f.detail for f in findings] == [
        "1 listed cases are missing on disk, e.g. 'c'.",
        "1 cases stand in none of the lists; left out.",
    ]
