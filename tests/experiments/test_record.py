"""Records of finished runs: what a line holds, what stays, and tables made from them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny_experiments import app

from experiments import record
from experiments import table as command
from experiments.rows import Run, load_rows
from experiments.table import markdown
from fedssl.config import flatten
from fedssl.errors import DataError
from fedssl.methods import load_config
from fedssl.results import config_toml

VESSELS = record.ROOT / "experiments/vessels/federation.toml"


def finish(runs: Path, name: str, dice: list[float], digest: str = "0123456789abcdef") -> Path:
    """Write what a run leaves: two classes, whose mean is the Dice of each case."""
    folder = runs / name
    method = "fedavg" if "lower" in name else "denoise"
    paths = {"out": str(folder), "cache-dir": "/home/me/cache", "data-root": "/home/me/data"}
    keys = {**paths, "federation": str(VESSELS), "method": method, "rounds": 7, "seed": 3}
    site = {
        "role": "unlabeled",
        "dice": {"disc": sum(dice) / len(dice) + 0.1, "cup": sum(dice) / len(dice) - 0.1},
        "hd95": {"disc": 4.123456789, "cup": None},
        "assd": {"disc": 1.0, "cup": None},
        "distance_unit": "pixel",
        "cases": len(dice),
    }
    results = {"sites": {"a": site}, "wall_seconds": 7.4321, "weights_sha256": digest}
    (folder / "sites/a").mkdir(parents=True)
    (folder / "config.toml").write_text(config_toml(flatten(load_config(keys))))
    (folder / "results.json").write_text(json.dumps(results))
    lines = [
        json.dumps({"name": f"image{i}", "dice": {"disc": v + 0.1, "cup": v - 0.1}})
        for i, v in enumerate(dice)
    ]
    (folder / "sites/a/cases.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def record_all(runs: Path, out: Path) -> str:
    """Record the runs and return what is said."""
    status, text = app(record.main, str(runs), "--out", str(out))
    assert status == 0, text
    return text


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_one_line_with_what_its_table_and_a_rerun_need(tmp_path: Path) -> None:
    folder = finish(tmp_path / "runs", "eyes/lower/labeled-sites=x/fold2/seed3", [0.5, 1 / 3])
    record_all(tmp_path / "runs", tmp_path / "records")
    (line,) = lines_of(tmp_path / "records/eyes.jsonl")
    assert line == {
        "experiment": "lower",
        "point": "labeled-sites=x",
        "fold": "fold2",
        "seed": 3,
        "config": {
            "federation": "experiments/vessels/federation.toml",
            "method": "fedavg",
            "rounds": 7,
            "seed": 3,
        },
        "results": json.loads((folder / "results.json").read_text()),
        "cases": {"a": {"image0": 0.5, "image1": 0.3333}},
        "commit": record.commit(),
        "cpu": record.cpu(),
    }
    assert record.cpu()


def test_no_path_of_a_machine_is_recorded(tmp_path: Path) -> None:
    folder = finish(tmp_path / "runs", "eyes/lower/seed0", [0.5])
    config = (folder / "config.toml").read_text()
    elsewhere = config.replace(str(VESSELS), str(tmp_path / "federation.toml"))
    (folder / "config.toml").write_text(elsewhere)
    finish(tmp_path / "runs", "eyes/lower/seed1", [0.5])
    checkout = finish(tmp_path / "runs", "eyes/lower/seed2", [0.5])
    same = config.replace(str(VESSELS), "/home/me/another/experiments/vessels/federation.toml")
    (checkout / "config.toml").write_text(same)
    record_all(tmp_path / "runs", tmp_path / "records")
    text = (tmp_path / "records/eyes.jsonl").read_text()
    configs = [line["config"] for line in lines_of(tmp_path / "records/eyes.jsonl")]
    assert [c["federation"] for c in configs] == [
        "federation.toml",
        "experiments/vessels/federation.toml",
        "experiments/vessels/federation.toml",
    ]
    for place in ('"/', str(tmp_path), str(record.ROOT), "/home/me", "cache-dir", "data-root"):
        assert place not in text


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    finish(tmp_path / "runs", "eyes/lower/seed0", [0.5])
    assert record_all(tmp_path / "runs", tmp_path / "records").startswith("eyes: 1 new, 0 rep")
    path = tmp_path / "records/eyes.jsonl"
    path.write_text(path.read_text().replace(record.cpu(), "the CPU that ran it"))
    before = path.stat().st_mtime_ns, path.read_bytes()
    text = record_all(tmp_path / "runs", tmp_path / "records")
    assert text == "eyes: 0 new, 0 replaced, 1 there already\n"
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_other_weights_replace_their_line_and_other_lines_stay(tmp_path: Path) -> None:
    for machine, digest in (("here", "1111"), ("there", "2222")):
        finish(tmp_path / machine, "eyes/lower/seed2", [0.5], digest)
    finish(tmp_path / "here", "eyes/lower/seed10", [0.5])
    finish(tmp_path / "there", "eyes/denoise/seed2", [0.5])
    record_all(tmp_path / "here", tmp_path / "records")
    path = tmp_path / "records/eyes.jsonl"
    kept = path.read_text().splitlines()[1]
    text = record_all(tmp_path / "there", tmp_path / "records")
    assert "replaced eyes/lower/seed2: 1111 before, 2222 now\n" in text
    assert "eyes: 1 new, 1 replaced, 0 there already\n" in text
    found = [(r["experiment"], r["seed"], r["results"]["weights_sha256"]) for r in lines_of(path)]
    assert found == [
        ("denoise", 2, "0123456789abcdef"),
        ("lower", 2, "2222"),
        ("lower", 10, "0123456789abcdef"),
    ]
    assert path.read_text().splitlines()[2] == kept


def test_a_table_from_records_is_the_table_from_their_runs(tmp_path: Path) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"
    for seed in (0, 2, 10):
        finish(runs, f"eyes/lower/seed{seed}", [0.5 + seed / 70, 1 / 3, 2 / 3])
        finish(runs, f"eyes/denoise/seed{seed}", [0.6 + seed / 90, 3 / 7, 5 / 7])
    finish(runs, "eyes/denoise/fold1/seed0", [4 / 9, 5 / 9])
    finish(runs, "eyes/upper/seed0", [0.8, 0.81, 0.82])
    finish(runs, "knees/lower/mu=1/seed0", [1 / 7])
    record_all(runs, records)
    assert sorted(path.name for path in records.iterdir()) == ["eyes.jsonl", "knees.jsonl"]
    texts = []
    for root in (runs, records):
        status, text = app(command.main, str(root), "--write", str(tmp_path / "R.md"))
        assert status == 0, text
        texts.append((tmp_path / "R.md").read_bytes())
    assert texts[0] == texts[1]
    assert b"| denoise | 3 (4 runs of 2 folds) |" in texts[0]


def test_of_a_run_that_several_folders_have_the_last_one_counts(tmp_path: Path) -> None:
    for machine, digest in (("here", "1111"), ("there", "2222")):
        finish(tmp_path / machine, "eyes/lower/seed0", [0.5], digest)
    finish(tmp_path / "here", "eyes/lower/seed1", [0.5])
    record_all(tmp_path / "here", tmp_path / "records")
    (lower,) = load_rows(tmp_path / "records", tmp_path / "there")
    assert list(lower.results) == [Run(0), Run(1)]
    assert lower.results[Run(0)]["weights_sha256"] == "2222"
    (lower,) = load_rows(tmp_path / "there", tmp_path / "records")
    assert lower.results[Run(0)]["weights_sha256"] == "1111"
    status, text = app(command.main, str(tmp_path / "records"), str(tmp_path / "there"))
    assert (status, text.strip()) == (
        0,
        markdown(load_rows(tmp_path / "records", tmp_path / "there")).strip(),
    )
    assert "2222" in text


@pytest.mark.parametrize("line", ['{"half', "<<<<<<< mine", "5", '{"experiment": "lower"}', ""])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    finish(tmp_path / "runs", "eyes/lower/seed0", [0.5])
    record_all(tmp_path / "runs", tmp_path / "records")
    path = tmp_path / "records/eyes.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=r"eyes\.jsonl, line 2 is no record of a run"):
        load_rows(tmp_path / "records")


def test_runs_that_cannot_be_recorded_are_named(tmp_path: Path) -> None:
    folder = finish(tmp_path / "runs", "eyes/lower/seed0", [0.5])
    arguments = (str(tmp_path / "runs"), "--out", str(tmp_path / "records"))
    (folder / "config.toml").write_text('method = "of-old"\n')
    status, text = app(record.main, *arguments)
    assert (status, "of another version of fedssl" in text) == (1, True)
    (folder / "config.toml").unlink()
    status, text = app(record.main, *arguments)
    assert (status, "config.toml is missing" in text) == (1, True)
    status, text = app(record.main, str(tmp_path / "nowhere"))
    assert (status, "nowhere holds no finished run" in text) == (1, True)
    assert not (tmp_path / "records").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_says_whether_code_or_experiments_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        names = ["-c", "user.name=me", "-c", "user.email=me@here"]
        return subprocess.check_output(["git", *names, *arguments], cwd=tmp_path, text=True)

    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert record.commit() == "", "there is no checkout"
    (tmp_path / "experiments/eyes").mkdir(parents=True)
    for name in ("experiments/eyes/lower.toml", "README.md"):
        (tmp_path / name).write_text("one")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    head = git("rev-parse", "--short", "HEAD").strip()
    (tmp_path / "README.md").write_text("two")
    assert record.commit() == head
    (tmp_path / "experiments/eyes/lower.toml").write_text("two")
    assert record.commit() == f"{head}+"


def test_other_results_of_the_same_weights_are_recorded_again(tmp_path: Path) -> None:
    folder = finish(tmp_path / "runs", "eyes/lower/seed0", [0.5])
    record_all(tmp_path / "runs", tmp_path / "records")
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(
        json.dumps({**results, "wall_seconds": 99.0, "finished": "later"})
    )
    assert "1 there already" in record_all(tmp_path / "runs", tmp_path / "records")
    results["sites"]["a"]["dice"]["disc"] = 0.9
    (folder / "results.json").write_text(json.dumps(results))
    assert "1 replaced" in record_all(tmp_path / "runs", tmp_path / "records")


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b"0123456789abcdef", b"fedcba9876543210"),
        lambda line: b'{"config":3}',
        lambda line: b"\xff\xfe" + line,
        lambda line: line.replace(b'"seed":0', b'"seed":"0"'),
        lambda line: line.replace(b'"sites":', b'"places":'),
    ],
    ids=["another run's weights", "no record", "no text", "no number", "no sites"],
)
def test_a_line_that_is_no_record_or_contradicts_another_is_named(tmp_path: Path, change) -> None:
    finish(tmp_path / "runs", "eyes/lower/seed0", [0.5])
    record_all(tmp_path / "runs", tmp_path / "records")
    path = tmp_path / "records/eyes.jsonl"
    line = path.read_bytes().strip()
    path.write_bytes(line + b"\n" + line + b"\n")  # merged twice: no harm
    assert app(command.main, str(tmp_path / "records"))[0] == 0
    path.write_bytes(line + b"\n" + change(line) + b"\n")
    status, text = app(command.main, str(tmp_path / "records"))
    assert (status, "line 2 is" in " ".join(text.split())) == (1, True)
