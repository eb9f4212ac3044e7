"""What a person sees of a run on the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from fedssl.config import RunConfig
from fedssl.progress import ConsoleProgress, results_table
from fedssl.results import RoundRecord, RunFolder, SiteResult
from fedssl.types import Role, SiteInfo

ROSTER = {
    "north": SiteInfo("north", Role.LABELED, 12, 12),
    "west": SiteInfo("west", Role.UNLABELED, 7, 0),
}
RESULTS = {
    "method": "denoise",
    "seed": 3,
    "weights_sha256": "abc123",
    "task": {"classes": ["background", "disc", "cup"]},
    "sites": {
        "north": {
            "role": "labeled",
            "cases": 4,
            "dice": {"disc": 0.91239, "cup": 0.8},
            "hd95": {"disc": 3.25, "cup": None},
            "pseudo_dice": None,
            "distance_unit": "mm",
        },
        "west": {
            "role": "unlabeled",
            "cases": 0,
            "dice": {"disc": None, "cup": None},
            "hd95": {"disc": None, "cup": None},
            "pseudo_dice": 0.5,
            "distance_unit": "mm",
        },
    },
}


def screen(width: int = 160) -> tuple[ConsoleProgress, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, soft_wrap=True)
    return ConsoleProgress(console), text


def test_the_start_names_the_method_the_seed_and_who_takes_part():
    progress, text = screen()
    progress.start(RunConfig(method="denoise", rounds=9, seed=3), ROSTER, 0)
    assert text.getvalue() == (
        "denoise: 9 rounds, seed 3. north (labeled, 12 samples), west (unlabeled, 7 samples).\n"
    )
    progress.start(RunConfig(rounds=9), ROSTER, 4)
    assert "9 rounds, from round 5, seed 0" in text.getvalue()


def test_a_round_shows_its_stages_mean_losses_and_the_time_that_is_left():
    progress, text = screen()
    progress.start(RunConfig(rounds=4), ROSTER, 0)
    text.truncate(0)
    sites = {
        "north": {"loss/supervised": 0.5, "loss": 0.5},
        "west": {"loss/pseudo": 0.25, "loss": 0.25, "retained": 0.9},
        "east": {"loss/supervised": 1.5, "loss": 1.5},
    }
    progress.round_done(RoundRecord(0, ["prototypes", "train"], seconds=20.0, sites=sites))
    line = text.getvalue()
    assert "round   1/4  prototypes+train  supervised 1.000  pseudo 0.250  20.0 s, 01:00 le" in line
    progress.round_done(RoundRecord(1, ["train"], seconds=40.0))
    assert "round   2/4  train  40.0 s, 01:00 left" in text.getvalue()  # (20 + 40) / 2 * 2


def test_a_validation_score_is_the_mean_over_sites_that_have_one():
    progress, text = screen()
    progress.start(RunConfig(rounds=2), ROSTER, 0)
    scores = {
        "north": SiteResult("labeled", "val", {"dice/disc": 0.8, "dice/cup": 0.6}, 3),
        "east": SiteResult("labeled", "val", {"dice/disc": 0.5, "dice/cup": 0.5}, 3),
        "west": SiteResult("unlabeled", "val", {}, 0),
    }
    progress.round_done(RoundRecord(0, ["train"], seconds=5000, evaluation=scores))
    assert "val Dice 0.600" in text.getvalue()
    assert "01:23:20 left" in text.getvalue()


def test_the_table_has_a_row_per_site_and_a_dash_where_nothing_was_measured():
    text = io.StringIO()
    Console(file=text, width=160).print(results_table(RESULTS))
    lines = [re.sub(r"[^ -~]", " ", line).split() for line in text.getvalue().splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    assert rows["north"] == ["labeled", "4", "0.912", "0.800", "3.2", "-", "-"]
    assert rows["west"] == ["unlabeled", "0", "-", "-", "-", "-", "0.500"]
    assert "HD95 disc [mm]" in " ".join(rows["site"])


def test_distances_carry_their_units_where_sites_differ_in_them():
    west = {**RESULTS["sites"]["west"], "distance_unit": "pixel", "hd95": {"disc": 7, "cup": None}}
    text = io.StringIO()
    sites = {**RESULTS["sites"], "west": west}
    Console(file=text, width=160).print(results_table({**RESULTS, "sites": sites}))
    assert "3.2 mm" in text.getvalue()
    assert "7.0 pixel" in text.getvalue()
    assert "[mm]" not in text.getvalue()


def test_names_in_square_brackets_are_printed_as_they_are():
    site = {**RESULTS["sites"]["north"], "answered": False}
    site |= {m: {"scar [red]": None} for m in ("dice", "hd95", "assd")}
    task = {"classes": ["background", "scar [red]"]}
    text = io.StringIO()
    results = {**RESULTS, "task": task, "sites": {"north [bold]": site}}
    Console(file=text, width=160).print(results_table(results))
    for expected in ("Dice scar [red]", "north [bold]", "no answer"):
        assert expected in text.getvalue()


def test_the_end_shows_the_digest_and_the_folder(tmp_path: Path):
    folder = RunFolder(tmp_path, RunConfig())
    folder.results.write_text(json.dumps(RESULTS))
    progress, text = screen()
    progress.finish(folder)
    assert "weights_sha256 abc123" in text.getvalue()
    assert f"Run folder: {tmp_path}" in text.getvalue()


def test_a_site_that_failed_in_some_rounds_is_named_at_the_end(tmp_path: Path):
    folder = RunFolder(tmp_path, RunConfig())
    north, west = RESULTS["sites"]["north"], RESULTS["sites"]["west"]
    sites = {"north": {**north, "rounds": 3}, "east": {**north, "rounds": 5}}
    sites |= {"west": {**west, "rounds": 2}}  # it has nothing to do in the warm-up
    folder.results.write_text(json.dumps({**RESULTS, "sites": sites}))
    progress, text = screen()
    progress.finish(folder)
    named = [line for line in text.getvalue().splitlines() if line.startswith("Site ")]
    assert named == [
        "Site north took part in 3 rounds, other labeled sites in up to 5; the log says why."
    ]


def test_the_table_is_whole_in_a_log_file(tmp_path: Path):
    folder = RunFolder(tmp_path, RunConfig())
    sites = {f"a-hospital-with-a-long-name-{n}": s for n, s in RESULTS["sites"].items()}
    folder.results.write_text(json.dumps({**RESULTS, "sites": sites}))
    progress, text = screen(width=40)
    progress.finish(folder)
    row = next(line for line in text.getvalue().splitlines() if "long-name-north" in line)
    assert "0.912" in row
    assert "3.25" in row or "3.2" in row


@pytest.mark.parametrize(
    ("north", "west", "named"),
    [
        ({"disc": 0.9, "cup": 0.01}, {"disc": None, "cup": None}, True),
        ({"disc": 0.9, "cup": 0.01}, {"disc": 0.8, "cup": 0.3}, False),
        ({"disc": 0.0, "cup": 0.01}, {"disc": None, "cup": None}, False),
        ({"disc": None, "cup": None}, {"disc": None, "cup": None}, False),
    ],
    ids=["at no site", "at one site", "nothing is learned", "no masks"],
)
def test_a_class_that_is_found_nowhere_is_named_at_the_end(
    north: dict[str, float | None],
    west: dict[str, float | None],
    named: bool,
    tmp_path: Path,
):
    folder = RunFolder(tmp_path, RunConfig())
    sites = {name: {**RESULTS["sites"][name]} for name in ("north", "west")}
    sites["north"]["dice"], sites["west"]["dice"] = north, west
    folder.results.write_text(json.dumps({**RESULTS, "sites": sites}))
    progress, text = screen()
    progress.finish(folder)
    assert ("Class cup is found at no site (Dice at most 0.01)" in text.getvalue()) == named
    assert "Class disc" not in text.getvalue()
