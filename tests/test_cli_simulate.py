"""`fedssl simulate` and `fedssl methods` as a person meets them, mistakes included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from tiny_federations import TINY, write_federation
from typer.testing import CliRunner, Result

from fedssl.cli import app
from fedssl.methods import METHODS

TASK = '[task]\nname = "t"\nclasses = ["background", "tumor"]\nmode = "{mode}"\n'


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or written to the user's folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.delenv("FEDSSL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def simulate(federation: Path | str, out: Path | None, *more: str) -> Result:
    keys = {**TINY, "rounds": 1, "local-steps": 1, "method": "fedavg"}
    given = [a for k, v in keys.items() for a in ("--set", f"{k}={json.dumps(v)}")]
    where = ["--out", str(out)] if out else []
    return CliRunner().invoke(app, ["simulate", "-f", str(federation), *where, *given, *more])


def failed(result: Result) -> str:
    """Return the one message of a refused run: no traceback, status 1."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert result.stderr.startswith("Error: ")
    assert result.stdout == ""
    return " ".join(result.stderr.split())


# --- runs that work ------------------------------------------------------------------------------


def test_a_run_prints_rounds_a_table_and_its_folder_and_leaves_it_complete(tmp_path: Path):
    result = simulate(write_federation(tmp_path), tmp_path / "run", "--set", "rounds=2")
    assert result.exit_code == 0, result.output
    assert "round   1/2  train" in result.stdout
    assert "round   2/2  train" in result.stdout
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["weights_sha256"] in result.stdout
    assert str(tmp_path / "run") in result.stdout.replace("\n", "")
    assert found["engine"] == "loopback"
    for site in ("north", "south", "west"):
        assert site in result.stdout


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path):
    federation = write_federation(tmp_path)
    assert simulate(federation, tmp_path / "run").exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    text = failed(simulate(federation, tmp_path / "run", "--seed", "1"))
    assert "holds a run already. Give another 'out', or --resume" in text
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_finished_run_can_be_made_longer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    federation = write_federation(tmp_path)
    assert simulate(federation, tmp_path / "run").exit_code == 0
    result = simulate(federation, tmp_path / "run", "--set", "rounds=2", "--resume")
    assert result.exit_code == 0, result.output
    assert "from round 2" in result.stdout
    assert "rounds: 1 then, 2 now" in caplog.text, "a share of them is another"
    straight = simulate(federation, tmp_path / "straight", "--set", "rounds=2")
    assert straight.exit_code == 0
    digests = [
        json.loads((tmp_path / name / "results.json").read_text())["weights_sha256"]
        for name in ("run", "straight")
    ]
    assert digests[0] == digests[1]


def test_underscores_in_a_key_are_hyphens(tmp_path: Path):
    given = (
        "--set",
        "local-steps=7",
        "--set",
        "local_steps=1",
        "--set",
        "mean_teacher.ema_decay=0.5",
    )
    assert simulate(write_federation(tmp_path), tmp_path / "run", *given).exit_code == 0
    text = (tmp_path / "run/config.toml").read_text()
    assert "local-steps = 1\n" in text


def test_without_a_name_the_folder_is_made_under_runs(tmp_path: Path):
    assert simulate(write_federation(tmp_path), None).exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-fedavg")


def test_methods_are_listed_for_people_and_for_programs():
    listed = CliRunner().invoke(app, ["methods"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in METHODS)
    parsed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert parsed == {name: method.summary for name, method in METHODS.items()}


# --- mistakes in keys and in the federation file -------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("denois.mu=0.5", "Unknown key 'denois.mu'. Did you mean 'denoise.mu'"),
        ("local-step=3", "Unknown key 'local-step'. Did you mean 'local-steps'"),
        ("method=fedagv", "Unknown method 'fedagv'. Did you mean 'fedavg'"),
        ("rounds", "Expected key=value, got 'rounds'"),
        ("labeled-sites=nrth", "names 'nrth', which is no site of"),
        ("patch-size=30", "Key 'patch-size' = '30': 30 is no multiple of 4"),
        ("image-size=8,8,8", "has 3 sizes, but mode '2d' has 2 axes"),
    ],
)
def test_a_wrong_key_is_explained(tmp_path: Path, assignment: str, message: str):
    run = simulate(write_federation(tmp_path), tmp_path / "run", "--set", assignment)
    assert message in failed(run)
    assert not (tmp_path / "run").exists()


def test_roles_that_leave_nobody_to_learn_from_are_refused(tmp_path: Path):
    federation = write_federation(tmp_path, {"far": "unlabeled", "west": "unlabeled"})
    text = failed(simulate(federation, tmp_path / "run"))
    assert "at least one site must have masks" in text
    assert "'labeled-sites'" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no [task] and no [[site]] table"),
        ("[task", "is not valid TOML"),
        (
            TASK.format(mode="2d") + '[[site]]\nname="a"\nrole="labeled"\n' * 2,
            "site name 'a' is used twice; names must differ",
        ),
        (
            TASK.format(mode="2d") + '[[site]]\nname="a"\nrole="teacher"\n',
            "[[site]] number 1 (a): key 'role': Input should be 'labeled', 'unlabeled' or 'mixed'",
        ),
    ],
    ids=["empty", "torn", "twice", "role"],
)
def test_a_broken_federation_file_is_named_and_explained(
    tmp_path: Path, content: str, message: str
):
    file = tmp_path / "federation.toml"
    file.write_text(content)
    text = failed(simulate(file, tmp_path / "run"))
    assert message in text
    assert str(file) in text
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "run").write_text("mine")
    text = failed(simulate(write_federation(tmp_path), tmp_path / "run"))
    assert f"{tmp_path / 'run'} cannot be written" in text
    assert (tmp_path / "run").read_text() == "mine"


def test_resuming_nothing_is_explained(tmp_path: Path):
    text = failed(simulate(write_federation(tmp_path), tmp_path / "run", "--resume"))
    assert "Nothing to resume" in text
    assert not (tmp_path / "run").exists()


# --- bad images and masks ------------------------------------------------------------------------


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, (4, 16, 16)).astype(np.float32)


def masks(seed: int) -> np.ndarray:
    return (volume(seed) > 110).astype(np.uint8)


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Two labeled sites of four small volumes each."""
    for site in ("north", "south"):
        for case in range(4):
            seed = case + 10 * (site == "south")
            write(tmp_path / site / "images" / f"case{case}.nii.gz", volume(seed))
            write(tmp_path / site / "labels" / f"case{case}.nii.gz", masks(seed))
    sites = "".join(
        f'[[site]]\nname = "{s}"\npath = "{s}"\nrole = "labeled"\n' for s in ("north", "south")
    )
    file = tmp_path / "federation.toml"
    file.write_text(TASK.format(mode="slices") + sites)
    return file


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def test_the_hospitals_of_these_tests_can_be_trained_on(hospitals: Path, tmp_path: Path):
    result = simulate(hospitals, tmp_path / "run")
    assert result.exit_code == 0, result.output


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[1, 2, 3] = value
    return changed


BAD: Mapping[str, tuple[str, np.ndarray, list[str]]] = {
    "a mask of another shape": (
        "labels",
        masks(12)[:, :8],
        ["labels/case2.nii.gz", "(4, 8, 16)", "(4, 16, 16)", "Resample the mask"],
    ),
    "a volume with NaN": (
        "images",
        with_value(volume(12), float("nan")),
        ["images/case2.nii.gz"],
    ),
    "a value that is no class": (
        "labels",
        with_value(masks(12), 7),
        ["labels/case2.nii.gz", "holds the value 7", "0 = background, 1 = tumor"],
    ),
    "a picture among volumes": (
        "images",
        volume(12)[0],
        ["images/case2.nii.gz", "mode = 'slices' needs volumes. Set mode = \"2d\""],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_data_is_one_error_with_the_file_and_a_remedy(
    hospitals: Path, tmp_path: Path, what: str
):
    kind, array, parts = BAD[what]
    write(tmp_path / "south" / kind / "case2.nii.gz", array)
    text = failed(simulate(hospitals, tmp_path / "run"))
    assert [part for part in (str(tmp_path / "south"), *parts) if part not in text] == []
    assert not (tmp_path / "run").exists()


def test_a_site_without_images_is_named(hospitals: Path, tmp_path: Path):
    for path in (tmp_path / "south").rglob("*.nii.gz"):
        path.unlink()
    text = failed(simulate(hospitals, tmp_path / "run"))
    assert "Site 'south'" in text
    assert f"{tmp_path / 'south' / 'images'} holds no images" in text
    assert not (tmp_path / "run").exists()


def test_a_site_whose_folder_is_missing_is_named(hospitals: Path, tmp_path: Path):
    (tmp_path / "south").rename(tmp_path / "sout")
    text = failed(simulate(hospitals, tmp_path / "run"))
    assert f"Site 'south': the folder {tmp_path / 'south'} does not exist" in text
    assert not (tmp_path / "run").exists()


def test_a_labeled_site_without_masks_is_told_what_to_do(hospitals: Path, tmp_path: Path):
    for path in (tmp_path / "south" / "labels").iterdir():
        path.unlink()
    text = failed(simulate(hospitals, tmp_path / "run"))
    assert "Site 'south' has the role 'labeled'" in text
    assert 'role = "unlabeled"' in text
    assert not (tmp_path / "run").exists()
