"""What report.html says of run folders that are incomplete, and which it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import read_page, results

from fedssl.errors import DataError
from fedssl.report.page import write_report


def test_a_site_that_did_not_answer_is_not_one_without_masks(copy: Path) -> None:
    found = results(copy)
    found["sites"]["south"] |= {"cases": 0, "answered": False}
    (copy / "results.json").write_text(json.dumps(found))
    page = read_page(write_report(copy))
    assert "Did not answer the final evaluation: south." in page.text
    assert "no answer" in page.one("tr", data_site="south").text


def test_a_class_that_is_found_nowhere_is_named(copy: Path) -> None:
    assert "is found at no site" not in read_page(write_report(copy)).text
    found = results(copy)
    other, name = found["task"]["classes"][1:]
    for site in found["sites"].values():
        site["dice"] = {other: 0.8, name: 0.0}
    (copy / "results.json").write_text(json.dumps(found))
    assert f"Class {name} is found at no site" in read_page(write_report(copy)).text


def test_a_site_that_missed_rounds_is_named(copy: Path) -> None:
    found = results(copy)
    assert "took part in" not in read_page(write_report(copy)).text
    north = found["sites"]["north"]
    found["sites"]["far"] = {**north, "rounds": north["rounds"] + 2}
    (copy / "results.json").write_text(json.dumps(found))
    told = f"Site north took part in {north['rounds']} rounds, other {north['role']} sites in up to"
    assert told in read_page(write_report(copy)).text


def test_a_picture_that_is_gone_leaves_the_others(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pictures, folder)
    gone = sorted((folder / "sites" / "south" / "overlays").glob("*.prediction.png"))[0]
    gone.unlink()
    page = read_page(write_report(folder))
    assert page.text.count("Some pictures are gone from disk.") == 1
    assert len(list(page.all("article"))) == len(
        list(read_page(pictures / "report.html").all("article"))
    )


def test_a_folder_without_results_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json does not exist.*--resume"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["results.json", "rounds.jsonl", "config.toml"])
def test_a_damaged_file_is_named(copy: Path, name: str) -> None:
    (copy / name).write_text('{"half')
    with pytest.raises(DataError, match=f"{name} is damaged"):
        write_report(copy)


def test_results_that_lack_a_part_are_refused(copy: Path) -> None:
    found = results(copy)
    del found["sites"]
    (copy / "results.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"results\.json lacks sites\. --resume"):
        write_report(copy)


@pytest.mark.parametrize(("text", "schema"), [("[]", "None"), ('{"schema": 99}', "99")])
def test_results_of_no_schema_or_another_are_refused(copy: Path, text: str, schema: str) -> None:
    (copy / "results.json").write_text(text)
    with pytest.raises(DataError, match=f"schema {schema}"):
        write_report(copy)
