"""Pseudo-labels out, corrected masks in: the worst come first, and the site becomes a mixed one."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
import torch
from typer.testing import CliRunner

from clients.cli import app
from fedssl.data.readers import read_label
from fedssl.errors import ConfigError, DataError
from fedssl.federation import load_site_file
from fedssl.methods import load_config
from fedssl.predict import load_trained
from fedssl.pseudo import expected_dice, pseudo_label_site
from fedssl.pseudo_export import import_corrections
from fedssl.site import Site
from fedssl.types import Role


def call(*arguments: object) -> dict[str, object]:
    """Run `fedssl-client ... --json`, and return its answer."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def exported(hospital: Path, run_folder: Path) -> Path:
    call("pseudo", "export", hospital / "site.toml", run_folder, "--out", hospital / "pseudo")
    return hospital / "pseudo"


def rows(exported: Path) -> list[dict[str, str]]:
    with (exported / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def paint(path: Path, value: int) -> None:
    """Write a mask with a square of one value."""
    mask = np.zeros((40, 52), np.uint8)
    mask[10:20, 10:20] = value
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(path))


def test_expected_dice_is_the_hand_computed_ratio() -> None:
    prob = torch.tensor([[0.8, 0.6, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    label = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    # First class: 2 * 1.4 / (1.5 + 2) = 0.8; second: neither labeled nor probable, 1.
    assert expected_dice(prob, label) == pytest.approx(0.9)
    certain = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert expected_dice(certain, label[:1]) == pytest.approx(1.0)
    assert expected_dice(1 - certain, label[:1]) == 0.0


def test_the_worst_case_comes_first(exported: Path) -> None:
    table = rows(exported)
    assert [r["rank"] for r in table] == ["1", "2", "3", "4", "5"]
    scores = [float(r["predicted_dice"]) for r in table]
    assert scores == sorted(scores)
    assert len(set(scores)) > 1
    for row in table:
        content = (exported / row["label"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        for kind in ("label", "trust"):
            assert read_label(exported / row[kind]).array.shape == (40, 52)
        assert set(np.unique(read_label(exported / row["trust"]).array)) <= {0, 1}


def test_labels_and_trust_are_those_that_training_would_store(
    hospital: Path, run_folder: Path, exported: Path
) -> None:
    trained = load_trained(run_folder)
    task, spec = load_site_file(hospital / "site.toml")
    with pseudo_label_site(trained, spec, task, hospital / "cache") as site:
        case = site.case(site.cases[2])
        stored = site.data.stored_maps(site.cases[2])
        assert np.array_equal(case.label, np.asarray(stored["pseudo"]).sum(0))
        assert case.uncertainty.shape == case.label.shape
        assert case.uncertainty.max() > 0
    assert np.array_equal(read_label(exported / "labels/eye_2.png").array, case.label)
    assert np.array_equal(read_label(exported / "trust/eye_2.png").array, case.trust)


def test_corrected_masks_make_the_site_a_mixed_one(hospital: Path, exported: Path) -> None:
    paint(exported / "labels/eye_1.png", 1)
    paint(exported / "labels/eye_4.png", 2)
    answer = call("pseudo", "import", hospital / "site.toml", exported)
    assert answer["new"] == ["eye_1", "eye_4"]
    assert answer["unchanged"] == ["eye_0", "eye_2", "eye_3"]
    task, spec = load_site_file(hospital / "site.toml")
    assert spec.role == Role.MIXED
    run = load_config(
        {"device": "cpu", "split.val-fraction": 0.0, "cache-dir": str(hospital / "c")}
    )
    site = Site(spec, task, run, hospital / "state")
    with_mask = {c.name for c in site.prepared.cases if c.has_label}
    assert with_mask == {"eye_1", "eye_4"}
    position = [c.name for c in site.prepared.cases].index("eye_4")
    assert site.prepared.label(position)[15, 15] == 2


def test_the_comments_of_the_site_file_survive(hospital: Path, exported: Path) -> None:
    before = (hospital / "site.toml").read_text()
    paint(exported / "labels/eye_1.png", 1)
    call("pseudo", "import", hospital / "site.toml", exported)
    after = (hospital / "site.toml").read_text()
    assert (hospital / "site.toml.bak").read_text() == before
    paint(exported / "labels/eye_2.png", 1)
    call("pseudo", "import", hospital / "site.toml", exported)
    assert (hospital / "site.toml.bak").read_text() == before, "the first one stays"
    assert (hospital / "site.toml.bak2").read_text() == after
    kept = [line for line in before.splitlines() if not line.startswith(("role", "# labeled"))]
    assert [line for line in kept if line not in after.splitlines()] == []


def test_a_site_file_that_cannot_be_written_is_left_and_a_new_one_lies_beside_the_masks(
    hospital: Path, exported: Path
) -> None:
    site_file, state = hospital / "read_only/site.toml", hospital / "read_only/state"
    site_file.parent.mkdir()
    text = (hospital / "site.toml").read_text()
    # As in a container: the folder of the site file is read-only, the state directory is not.
    own = hospital / "state"
    site_file.write_text(text.replace('state-dir = "state"', f'state-dir = "{own}"'))
    paint(exported / "labels/eye_1.png", 1)
    with read_only(site_file.parent):
        answer = call("pseudo", "import", site_file, exported)
    assert not state.exists()
    assert (answer["in_place"], answer["site_file"]) == (False, str(own / "site.toml"))
    assert load_site_file(site_file)[1].role == Role.UNLABELED
    assert load_site_file(own / "site.toml")[1].role == Role.MIXED
    assert sorted(p.name for p in site_file.parent.iterdir()) == ["site.toml"]
    site_file.write_bytes((own / "site.toml").read_bytes())  # what the message asks for
    assert load_site_file(site_file)[1].options["labels"] == str(own / "corrected")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder read-only onto itself, as a container sees it; root writes anything else."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_changed_site_file_is_written_where_it_is_told(hospital: Path, exported: Path) -> None:
    before = (hospital / "site.toml").read_bytes()
    paint(exported / "labels/eye_1.png", 1)
    new = hospital / "new.toml"
    answer = call("pseudo", "import", hospital / "site.toml", exported, "--site-file-out", new)
    assert (answer["in_place"], answer["site_file"]) == (False, str(new))
    assert (hospital / "site.toml").read_bytes() == before
    assert load_site_file(new)[1].role == Role.MIXED


def test_a_folder_may_be_named_from_where_one_stands(
    hospital: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(exported / "labels/eye_1.png", 1)
    monkeypatch.chdir(hospital)
    answer = call("pseudo", "import", "site.toml", exported.name)
    assert answer["new"] == answer["cases"] == ["eye_1"]


def test_a_second_import_adds_to_the_first(hospital: Path, exported: Path) -> None:
    paint(exported / "labels/eye_1.png", 1)
    call("pseudo", "import", hospital / "site.toml", exported)
    (hospital / "more").mkdir()
    paint(hospital / "more/eye_3.png", 1)
    answer = call("pseudo", "import", hospital / "site.toml", hospital / "more")
    assert answer["new"] == ["eye_3"]
    assert answer["cases"] == ["eye_1", "eye_3"]
    assert load_site_file(hospital / "site.toml")[1].role == Role.MIXED


def test_masks_that_nobody_changed_are_not_taken_for_the_truth(
    hospital: Path, exported: Path
) -> None:
    before = (hospital / "site.toml").read_bytes()
    with pytest.raises(DataError, match="no mask that was changed"):
        import_corrections(hospital / "site.toml", exported, hospital / "state")
    assert (hospital / "site.toml").read_bytes() == before
    done = import_corrections(
        hospital / "site.toml", exported, hospital / "state", unchanged_too=True
    )
    assert len(done.new) == 5


@pytest.mark.parametrize(
    ("name", "shape", "value", "message"),
    [
        ("eye_1", (30, 52), 1, "Resample the mask"),
        ("eye_1", (40, 52), 7, "7"),
        ("ear_1", (40, 52), 1, "without an image of the same name"),
    ],
)
def test_a_mask_that_does_not_fit_changes_nothing(
    hospital: Path, name: str, shape: tuple[int, int], value: int, message: str
) -> None:
    before = (hospital / "site.toml").read_bytes()
    (hospital / "in").mkdir()
    mask = np.zeros(shape, np.uint8)
    mask[5:9, 5:9] = value
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(hospital / f"in/{name}.png"))
    with pytest.raises(DataError, match=message):
        import_corrections(hospital / "site.toml", hospital / "in", hospital / "state")
    assert (hospital / "site.toml").read_bytes() == before
    assert not (hospital / "state/corrected").exists()


def write_volume(path: Path, spacing: float, origin: float) -> None:
    volume = np.zeros((6, 20, 24), np.uint8)
    volume[2:4, 5:9, 5:9] = 1
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((spacing, spacing, 2.0))
    image.SetOrigin((origin, 0.0, 0.0))
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


def test_a_volume_of_another_spacing_is_no_mask_of_its_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_volume(tmp_path / "images/scan.nii.gz", 1.0, 0.0)
    text = """[task]
name = "scans"
classes = ["background", "organ"]
mode = "3d"
[[site]]
name = "west"
role = "unlabeled"
path = "."
"""
    (tmp_path / "site.toml").write_text(text)
    before = (tmp_path / "site.toml").read_bytes()
    write_volume(tmp_path / "in/scan.nii.gz", 1.5, 0.0)
    with pytest.raises(DataError, match=r"scan\.nii\.gz: Its spacing is not that of its image"):
        import_corrections(tmp_path / "site.toml", tmp_path / "in", tmp_path / "state")
    assert (tmp_path / "site.toml").read_bytes() == before
    assert not (tmp_path / "state/corrected").exists()

    write_volume(tmp_path / "in/scan.nii.gz", 1.0, 30.0)
    done = import_corrections(tmp_path / "site.toml", tmp_path / "in", tmp_path / "state")
    assert done.new == ["scan"]
    assert "30.00 voxels away" in caplog.text


def test_a_run_for_another_task_is_refused_with_both_values(
    hospital: Path, run_folder: Path
) -> None:
    text = (hospital / "site.toml").read_text().replace('"cup"]', '"dot"]')
    (hospital / "site.toml").write_text(text)
    task, spec = load_site_file(hospital / "site.toml")
    with (
        pytest.raises(ConfigError, match=r"'cup'.*'dot'"),
        pseudo_label_site(load_trained(run_folder), spec, task, hospital / "cache"),
    ):
        pass


def test_preview_writes_one_picture_per_case(hospital: Path, run_folder: Path) -> None:
    answer = call(
        "preview", hospital / "site.toml", run_folder, "--out", hospital / "look", "--cases", 3
    )
    cases = answer["cases"]
    assert isinstance(cases, list)
    assert [c["case"] for c in cases] == ["eye_0", "eye_2", "eye_4"]
    for case in cases:
        picture = sitk.GetArrayFromImage(sitk.ReadImage(case["picture"]))
        assert picture.shape[:2] == (396, 1320)
        assert picture[..., :3].std() > 10
