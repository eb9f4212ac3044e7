"""Several runs on one page, and the two commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import read_page
from typer.testing import CliRunner

from fedssl.cli import app
from fedssl.report.compare import write_comparison


@pytest.fixture
def better(pictures: Path, tmp_path: Path) -> Path:
    """A second run folder: all Dice values 0.5 higher, another seed and learning rate."""
    folder = tmp_path / "better"
    folder.mkdir()
    shutil.copy(pictures / "rounds.jsonl", folder)
    config = (pictures / "config.toml").read_text()
    assert "lr = 0.02\n" in config
    (folder / "config.toml").write_text(config.replace("lr = 0.02\n", "lr = 0.5\n"))
    results = json.loads((pictures / "results.json").read_text())
    results["seed"] = 7
    for site in results["sites"].values():
        site["dice"] = {name: dice + 0.5 for name, dice in site["dice"].items()}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_distances_of_two_units_have_no_mean(pictures: Path, better: Path, tmp_path: Path) -> None:
    def heads() -> list[list[str]]:
        page = read_page(write_comparison([pictures, better], tmp_path / "c.html"))
        tables = [t for t in page.all("table") if "Traffic" in t.text]
        return [[cell.text for cell in t.one("thead").all("th")] for t in tables]

    assert all("Mean" in head for head in heads())
    results = json.loads((better / "results.json").read_text())
    first = next(iter(results["sites"].values()))
    first["distance_unit"] = "mm" if first["distance_unit"] == "pixel" else "pixel"
    (better / "results.json").write_text(json.dumps(results))
    found = heads()
    assert ["Mean" in head for head in found] == [True] * 3 + [False] * (len(found) - 3)
    page = read_page(tmp_path / "c.html")
    assert "they have no mean" in " ".join(page.text.split())


def test_rows_hold_each_run_s_numbers(pictures: Path, better: Path, tmp_path: Path) -> None:
    page = read_page(write_comparison([pictures, better], tmp_path / "new" / "c.html"))
    tables = page.one("section", id="m-0")
    rows = {row.one("th").text: row for row in tables.one("tbody").all("tr")}
    assert list(rows) == ["denoise, seed 0", "denoise, seed 7"]
    for row, folder in zip(rows.values(), (pictures, better), strict=True):
        results = json.loads((folder / "results.json").read_text())
        sites = [sum(s["dice"].values()) / 2 for s in results["sites"].values()]
        shown = row.numbers()
        assert shown == [
            pytest.approx(sum(sites) / 2),
            *(pytest.approx(s) for s in sites),
            *(pytest.approx(s) for s in sites),
            results["wall_seconds"],
            results["bytes_up"] + results["bytes_down"],
        ]
    assert len(list(rows["denoise, seed 7"].all("td", class_="best"))) == 5
    assert not list(rows["denoise, seed 0"].all("td", class_="best"))


def test_only_keys_that_differ_are_listed(pictures: Path, better: Path, tmp_path: Path) -> None:
    page = read_page(write_comparison([pictures, better], tmp_path / "c.html"))
    panel = next(
        page.one("section", id=b.attributes["aria-controls"])
        for b in page.all("button", role="tab")
        if b.text == "Configuration"
    )
    rows = [[c.text for c in row.children] for row in panel.one("tbody").all("tr")]
    assert rows == [["lr", "0.02", "0.5"]]


def test_runs_on_other_sites_or_splits_are_pointed_out(
    pictures: Path, better: Path, tmp_path: Path
) -> None:
    def warnings() -> str:
        page = read_page(write_comparison([pictures, better], tmp_path / "c.html"))
        return " ".join(note.text for note in page.all("p", class_="warn"))

    assert warnings() == ""
    config = (better / "config.toml").read_text()
    assert "fold = 0\n" in config
    (better / "config.toml").write_text(config.replace("fold = 0\n", "fold = 1\n"))
    assert "different test splits" in warnings()
    results = json.loads((better / "results.json").read_text())
    results["sites"]["south"]["cases"] = 0
    (better / "results.json").write_text(json.dumps(results))
    assert "Not all runs have results of the same sites" in warnings()
    results["sites"] = {"elsewhere": results["sites"]["north"]}
    (better / "results.json").write_text(json.dumps(results))
    assert "different sites" in warnings()


def test_runs_of_the_same_name_are_told_apart_by_their_folder(
    pictures: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("results.json", "rounds.jsonl", "config.toml"):
        shutil.copy(pictures / name, copy)
    text = write_comparison([pictures, copy], tmp_path / "c.html").read_text()
    assert "denoise, seed 0 (run)" in text
    assert "denoise, seed 0 (copy)" in text


def test_the_report_command_writes_again_what_the_run_wrote(pictures: Path) -> None:
    before = (pictures / "report.html").read_bytes()
    (pictures / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", str(pictures)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(pictures / "report.html")
    assert (pictures / "report.html").read_bytes() == before


def test_the_report_command_names_a_folder_without_a_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert "no folder of a finished run" in done.output


def test_names_in_square_brackets_stand_in_the_table(pictures: Path, tmp_path: Path) -> None:
    for name in ("run[lr=1]", "run[bold]"):
        (tmp_path / name).mkdir()
        for file in ("results.json", "rounds.jsonl", "config.toml"):
            shutil.copy(pictures / file, tmp_path / name)
    folders = [str(tmp_path / name) for name in ("run[lr=1]", "run[bold]")]
    done = CliRunner().invoke(app, ["compare", *folders, "--out", str(tmp_path / "c.html")])
    assert "(run[lr=1])" in done.output
    assert "(run[bold])" in done.output


def test_the_compare_command_prints_a_table_and_writes_the_page(
    pictures: Path, volumes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.html"
    done = CliRunner().invoke(app, ["compare", str(pictures), str(volumes), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "denoise, seed 0" in done.output
    assert "fedavg, seed 0" in done.output
    mean = json.loads((volumes / "results.json").read_text())["mean_dice"]
    assert f"{mean:.3f}" in done.output
    read_page(out)


def test_runs_of_a_set_are_told_apart_by_their_place_and_other_roles_are_named(
    pictures: Path, tmp_path: Path
) -> None:
    places = [tmp_path / "set" / name / "seed0" for name in ("lower", "upper")]
    for place in places:
        shutil.copytree(pictures, place, ignore=shutil.ignore_patterns("sites", "tensorboard"))
    results = json.loads((places[1] / "results.json").read_text())
    for site in results["sites"].values():
        site["role"] = "labeled"
    (places[1] / "results.json").write_text(json.dumps(results))
    page = read_page(write_comparison(places, tmp_path / "c.html"))
    rows = [row.one("th").text for row in page.one("section", id="m-0").one("tbody").all("tr")]
    assert rows == ["denoise, seed 0 (lower/seed0)", "denoise, seed 0 (upper/seed0)"]
    assert "Roles differ between the runs" in " ".join(page.text.split())
