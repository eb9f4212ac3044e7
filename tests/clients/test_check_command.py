"""`fedssl-client check`: what people and scripts see, exit status, the summary that leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from typer.testing import CliRunner

from clients.cli import app

FEDERATION = """
[task]
name = "blobs"
classes = ["background", "blob"]
mode = "slices"
[[site]]
name = "north"
role = "labeled"
path = "north-wing"
[[site]]
name = "south"
role = "unlabeled"
path = "south-wing"
"""


def check(*arguments: str):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for site, who, cases in (("north-wing", "mueller", 6), ("south-wing", "schmidt", 2)):
        for case in range(cases):
            image = rng.normal(50, 9, (5, 8, 9)).astype(np.float32)
            save(tmp_path / site / "images" / f"{who}_{case}.nii.gz", image)
            if site == "north-wing":
                mask = (image > 50).astype(np.uint8)
                save(tmp_path / site / "labels" / f"{who}_{case}.nii.gz", mask)
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION)
    return path


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.7, 3.0))
    sitk.WriteImage(image, str(path))


def test_sites_without_problems_are_ready(federation: Path) -> None:
    done = check(federation)
    assert done.exit_code == 0
    assert "north (labeled, layout folders): 6 of 6 cases readable, 6 with a mask" in done.stdout
    assert "Ready to train: 0 errors, 0 warnings." in done.stdout
    alone = check(federation.parent, "--site", "south", "--json")
    assert [site["site"] for site in json.loads(alone.stdout)["sites"]] == ["south"]


def test_a_site_file_of_a_hospital_is_checked(hospital: Path) -> None:
    done = check(hospital / "site.toml", "--json")
    table = json.loads(done.stdout)
    assert (done.exit_code, table["schema"], table["ok"]) == (0, "fedssl.check/1", True)
    (site,) = table["sites"]
    assert (site["site"], site["cases"], site["masks"]) == ("west", 5, 0)


@pytest.mark.parametrize("option", [("--site", "nroth"), ("--data-root", "/elsewhere")])
def test_options_of_a_federation_file_are_refused_for_a_site_file(hospital: Path, option) -> None:
    done = check(hospital / "site.toml", *option)
    assert done.exit_code == 1
    assert "--data-root are for a federation file. Leave them out." in done.output


def test_errors_are_listed_with_file_and_remedy_and_end_with_status_1(federation: Path) -> None:
    broken = federation.parent / "north-wing/images/mueller_1.nii.gz"
    broken.write_bytes(b"")
    lonely = federation.parent / "north-wing/labels/mueller_2.nii.gz"
    save(lonely, np.zeros((5, 8, 9), dtype=np.uint8))
    done = check(federation)
    assert done.exit_code == 1
    assert f"error {broken}" in done.stdout
    assert "is empty (0 bytes)." in done.stdout
    assert "-> Copy it again." in done.stdout
    assert f"warning {lonely}" in done.stdout
    assert "Not ready to train: 1 errors, 1 warnings." in done.stdout
    table = json.loads(check(federation, "--json").stdout)
    (error, warning) = table["sites"][0]["findings"]
    assert (error["level"], error["kind"], error["file"]) == ("error", "image", str(broken))
    assert (warning["level"], warning["kind"]) == ("warning", "empty-mask")
    assert (table["errors"], table["warnings"]) == (1, 1)


def test_warnings_alone_end_with_status_0(federation: Path) -> None:
    for case in range(6):
        mask = federation.parent / f"north-wing/labels/mueller_{case}.nii.gz"
        save(mask, np.ones((5, 8, 9), dtype=np.uint8))
    done = check(federation)
    assert done.exit_code == 0
    assert "... and 2 more like these; --all lists them." in done.stdout
    assert check(federation, "--all").stdout.count("warning ") == 6


def test_the_summary_holds_no_name_path_or_value_of_a_case(federation: Path) -> None:
    path = federation.parent / "summary.json"
    assert check(federation, "--site", "north", "--summary", path).exit_code == 0
    text = path.read_text()
    for secret in ("mueller", "north", "wing", str(federation.parent)):
        assert secret not in text
    table = json.loads(text)
    assert (table["cases"], table["masks"]) == (6, 6)
    assert table["axes"]["depth"]["spacing"]["shared"] == {"3": 6}
    assert table["axes"]["depth"]["size"]["shared"] == {"5": 6}
    # fewer than five cases: no exact value, and a note that the counts are small
    assert check(federation, "--site", "south", "--summary", path).exit_code == 0
    few = json.loads(path.read_text())
    assert few["axes"]["depth"]["spacing"]["shared"] == {}
    assert "axes.depth.spacing" in few["small_counts"]


def test_nothing_that_can_be_summarised_is_said_after_the_findings(federation: Path) -> None:
    for image in (federation.parent / "south-wing/images").iterdir():
        image.write_bytes(b"")
    done = check(federation, "--site", "south", "--summary", federation.parent / "s.json")
    assert done.exit_code == 1
    assert "Not ready to train: 2 errors" in done.stdout
    assert "nothing to summarise" in done.stderr
    assert not (federation.parent / "s.json").exists()


def test_a_folder_or_a_site_that_is_not_there_is_named(federation: Path) -> None:
    empty = check(federation.parent / "north-wing")
    assert empty.exit_code == 1
    assert "holds neither site.toml nor federation.toml" in empty.stderr
    other = check(federation, "--site", "nroth", "--json")
    assert other.exit_code == 1
    assert "north" in json.loads(other.stdout)["error"]
