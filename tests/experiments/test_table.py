"""Tables of finished runs, from numbers small enough to check by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments import table as command
from experiments.rows import Row, Run, load_rows, paired_interval
from experiments.table import markdown
from fedssl.errors import DataError


def row(experiment: str, dice: dict[str, list[float]], point: str = "", role="unlabeled") -> Row:
    """One seed; Dice of each case by site."""
    sites = {
        site: {
            "role": role,
            "dice": {"organ": sum(values) / len(values)},
            "hd95": {"organ": 4.0},
            "assd": {"organ": None},
            "distance_unit": "mm",
            "cases": len(values),
        }
        for site, values in dice.items()
    }
    result = {"sites": sites, "wall_seconds": 7.4, "weights_sha256": "0123456789abcdef"}
    cases = {s: {f"case{i}": v for i, v in enumerate(values)} for s, values in dice.items()}
    return Row("set", experiment, point, {Run(0): result}, {Run(0): cases})


def cells(table: str, experiment: str) -> list[str]:
    line = next(x for x in table.splitlines() if x.startswith(f"| {experiment} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_difference_is_paired_within_sites_and_sites_weigh_the_same():
    ours = {("a", "1"): 0.9, ("a", "2"): 0.7, ("b", "1"): 0.5}
    theirs = {("a", "1"): 0.8, ("a", "2"): 0.6, ("b", "1"): 0.2, ("b", "only here"): 0.0}
    # +0.1 and +0.1 at a, +0.3 at b: every draw of cases has the mean (0.1 + 0.3) / 2
    assert paired_interval(ours, theirs) == pytest.approx((0.2, 0.2, 0.2))


def test_an_interval_covers_the_mean_and_nothing_in_common_has_none():
    ours = {("a", str(i)): 0.5 + 0.1 * (i % 3) for i in range(9)}
    mean, low, high = paired_interval(ours, dict.fromkeys(ours, 0.5))
    assert mean == pytest.approx(0.1)
    assert low < mean < high
    assert all(math.isnan(v) for v in paired_interval(ours, {}))


def test_a_row_tells_its_share_of_the_gap():
    point = "labeled-sites=x"
    lower, ours = row("lower", {"a": [0.5, 0.5]}, point), row("ours", {"a": [0.6, 0.6]}, point)
    table = markdown([lower, ours, row("upper", {"a": [0.7, 0.7]})])
    assert cells(table, "ours") == [
        *("ours", "1", "0.600", "0.600", "4.0", "-", "+0.100 [+0.100, +0.100]", "50%", "7"),
        "0123456789ab",
    ]
    assert cells(table, "lower")[6:8] == ["-", "-"]


def test_without_a_gap_beyond_noise_no_share_is_claimed():
    lower, upper = row("lower", {"a": [0.5, 0.6]}), row("upper", {"a": [0.6, 0.5]})
    table = markdown([lower, row("ours", {"a": [0.9, 0.9]}), upper])
    assert cells(table, "ours")[7] == "no gap beyond noise"


def test_a_single_mixed_site_has_its_row():
    lower = row("lower", {"a": [0.5]}, role="mixed")
    table = markdown([lower, row("ours", {"a": [0.6]}, role="mixed")])
    assert cells(table, "ours")[2:4] == ["0.600", "0.600"]


def test_without_a_lower_bound_there_are_scores_and_no_differences():
    table = markdown([row("ours", {"a": [0.6]}), row("upper", {"a": [0.7]})])
    assert cells(table, "ours")[2:8] == ["0.600", "0.600", "4.0", "-", "-", "-"]


def test_without_an_upper_bound_there_are_differences_and_no_share():
    table = markdown([row("lower", {"a": [0.5]}), row("ours", {"a": [0.6]})])
    assert cells(table, "ours")[6:8] == ["+0.100 [+0.100, +0.100]", "-"]


def test_a_row_that_lacks_a_site_or_masks_has_dashes_there():
    lower, blind = row("lower", {"a": [0.5], "b": [0.5]}), row("blind", {"a": [0.5]})
    blind.results[Run(0)]["sites"]["a"]["dice"]["organ"] = None
    blind.cases[Run(0)].clear()
    table = markdown([lower, blind, row("upper", {"a": [0.7], "b": [0.7]})])
    assert cells(table, "blind")[2:5] == ["-", "-", "-"]
    assert cells(table, "blind")[7:9] == ["-", "-"]


def test_runs_are_paired_over_the_seeds_that_both_have():
    lower, ours = row("lower", {"a": [0.5]}), row("ours", {"a": [0.6]})
    lower.results[Run(1)], lower.cases[Run(1)] = lower.results[Run(0)], {"a": {"case0": 0.9}}
    assert cells(markdown([lower, ours]), "ours")[6] == "+0.100 [+0.100, +0.100]"


def test_a_case_counts_where_both_rows_tested_it_in_the_same_run():
    lower, ours = row("lower", {"a": [0.5], "b": [0.5]}), row("ours", {"a": [0.6], "b": [0.6]})
    for kind, gain in ((lower, 0.0), (ours, 0.1)):
        other = row("x", {"a": [0.8 + gain], "b": [0.8 + gain]})
        kind.results[Run(1)], kind.cases[Run(1)] = other.results[Run(0)], other.cases[Run(0)]
    # b did not answer when the lower bound with seed 0 was tested
    lower.results[Run(0)]["sites"]["b"]["dice"]["organ"] = None
    del lower.cases[Run(0)]["b"]
    table = markdown([lower, ours, row("upper", {"a": [0.7], "b": [0.7]})])
    assert cells(table, "ours")[7:9] == ["+0.100 [+0.100, +0.100]", "50%"]
    assert cells(table, "lower")[2:5] == ["0.650 +- 0.212", "0.800", "0.800"], "seed 1 is whole"
    assert "Without a score: b in lower, seed 0." in table


def test_the_share_is_taken_over_the_runs_that_all_three_have():
    lower, ours, upper = (
        row(n, {"a": [d]}) for n, d in (("lower", 0.5), ("x", 0.6), ("upper", 0.7))
    )
    for bound, dice in ((lower, 0.1), (upper, 0.9)):
        bound.results[Run(0, "fold1")] = row("other", {"a": [dice]}).results[Run(0)]
        bound.cases[Run(0, "fold1")] = {"a": {"another": dice}}
    assert cells(markdown([lower, ours, upper]), "x")[7] == "50%"


def test_folds_are_pooled_case_by_case_and_seeds_are_not():
    lower, ours = row("lower", {"a": [0.5]}), row("ours", {"a": [0.6]})
    for kind, dice in ((lower, [0.2, 0.2, 0.2]), (ours, [0.3, 0.5, 0.7])):
        other = row("x", {"a": dice})
        kind.results[Run(0, "fold1")] = other.results[Run(0)]
        names = [f"more{i}" for i in range(3)]
        kind.cases[Run(0, "fold1")] = {"a": dict(zip(names, dice, strict=True))}
    # differences 0.1; 0.1, 0.3, 0.5 over four cases
    found = cells(markdown([lower, ours]), "ours")
    assert found[1:3] == ["1 (2 folds)", "0.525"]
    assert found[6].startswith("+0.250 [+0.")
    ours.results[Run(1)], ours.cases[Run(1)] = ours.results[Run(0)], ours.cases[Run(0)]
    assert cells(markdown([lower, ours]), "ours")[1:3] == [
        "2 (3 runs of 2 folds)",
        "0.562 +- 0.053",
    ]


def test_a_fold_of_its_own_folder_belongs_to_its_row(tmp_path: Path):
    result = row("lower", {"a": [0.5]}).results[Run(0)]
    for place in ("lower/x=1/seed0", "lower/x=1/fold2/seed0", "lower/fold3/seed1"):
        folder = tmp_path / "set" / place
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(result))
    found = {r.point: sorted(r.results) for r in load_rows(tmp_path)}
    assert found == {"x=1": [Run(0), Run(0, "fold2")], "": [Run(1, "fold3")]}


@pytest.mark.parametrize(
    ("lower", "experiment", "point"),
    [
        ("lower", "denoise", "mu=0.5"),
        ("mu-lower", "mu", "mu=0.5"),
        ("lower", "denoise", "labeled-sites=b,mu=0.5"),
    ],
)
def test_a_grid_is_one_table_with_the_bounds_that_do_not_vary_with_it(lower, experiment, point):
    who = "labeled-sites=b" if "labeled" in point else ""
    bound, upper = row(lower, {"a": [0.5]}, who), row("upper", {"a": [0.9]}, who)
    ours = [row(experiment, {"a": [0.7]}, point), row(experiment, {"a": [0.6]}, point[:-1] + "7")]
    table = markdown([bound, upper, *ours])
    assert table.count("###") == 1
    assert cells(table, f"{experiment}, mu=0.5")[6:8] == ["+0.200 [+0.200, +0.200]", "50%"]
    assert cells(table, f"{experiment}, mu=0.7")[6:8] == ["+0.100 [+0.100, +0.100]", "25%"]
    assert cells(table, "upper")[6] == "+0.400 [+0.400, +0.400]"


def test_a_row_with_fewer_runs_is_marked():
    lower, ours = row("lower", {"a": [0.5]}), row("ours", {"a": [0.6]})
    assert "fewer runs" not in markdown([lower, ours])
    lower.results[Run(1)], lower.cases[Run(1)] = lower.results[Run(0)], lower.cases[Run(0)]
    table = markdown([lower, ours])
    assert cells(table, "ours")[1] == "1 *"
    assert "\\* fewer runs than the lower bound" in table


def test_keys_that_rows_do_not_share_are_named_but_not_those_of_methods_and_grids():
    lower, ours = row("lower", {"a": [0.5]}), row("ours", {"a": [0.6]}, "lr=0.2")
    lower.configs[Run(0)] = {"method": "fedavg", "seed": 0, "rounds": 7}
    ours.configs[Run(0)] = {"denoise.mu": 0.5, "seed": 0, "rounds": 7, "lr": 0.2}
    assert "Not the same" not in markdown([lower, ours])
    ours.configs[Run(0)] = {**ours.configs[Run(0)], "precision": "bf16"}
    note = "Not the same in all rows: `precision` is 'bf16' in ours, lr=0.2; default in lower."
    assert note in markdown([lower, ours])


def test_whose_masks_were_there_is_named_where_rows_differ():
    rows = [row(name, {"a": [0.5]}) for name in ("lower", "ours", "upper")]
    for number, kind in enumerate(rows):
        kind.configs[Run(0)] = {"labeled-sites": "xyz"[: number + 1]}
    note = "`labeled-sites` is 'x' in lower; 'xy' in ours."
    assert f"Not the same in all rows: {note}" in markdown(rows)


def test_names_of_classes_stay_in_their_cells():
    lower = row("lower", {"a": [0.5]})
    for metric in ("dice", "hd95", "assd"):
        lower.results[Run(0)]["sites"]["a"][metric] = {"a|<b>": 0.5}
    assert "| a\\|&lt;b&gt; |" in markdown([lower])


def test_sites_and_classes_have_their_own_table():
    lower = row("lower", {"a": [0.5], "b": [0.7]})
    site = lower.results[Run(0)]["sites"]["b"]
    site |= {"dice": {"organ": 0.6, "lesion": 0.8}, "hd95": {"organ": 4.0, "lesion": 12.0}}
    site["assd"] = {"organ": None, "lesion": 2.5}
    table = markdown([lower])
    assert "| lower | a | organ | 0.500 | 4.0 | - | mm |" in table
    assert "| lower | b | lesion | 0.800 | 12.0 | 2.50 | mm |" in table


def test_sites_without_masks_leave_the_table_to_those_that_are_scored():
    lower = row("lower", {"a": [0.5], "dark": [0.5]})
    sites = lower.results[Run(0)]["sites"]
    sites["a"]["role"] = "labeled"
    sites["dark"]["dice"] = {"organ": None}
    assert "| experiment | seeds | Dice a | Dice, mean |" in markdown([lower])


def test_distances_in_millimetres_and_pixels_are_not_averaged():
    lower = row("lower", {"a": [0.5], "b": [0.5], "unseen": [0.5]})
    sites = lower.results[Run(0)]["sites"]
    sites["unseen"]["hd95"]["organ"], sites["unseen"]["distance_unit"] = None, "pixel"
    assert "HD95 (mm)" in markdown([lower])
    sites["b"]["distance_unit"] = "pixel"
    assert "HD95 (of several units)" in markdown([lower])
    assert cells(markdown([lower]), "lower")[6:8] == ["-", "-"]


def test_the_unit_is_that_of_the_sites_that_are_shown():
    lower = row("lower", {"a": [0.5], "z": [0.5]})
    lower.results[Run(0)]["sites"]["a"] |= {"role": "labeled", "distance_unit": "pixel"}
    assert "HD95 (mm)" in markdown([lower])


def test_a_folder_without_finished_runs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "runs/set/lower/seed0"
    run.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(row("lower", {"a": [0.5]}).results[Run(0)]))
    aside = run.with_name("seed0.interrupted-1")
    aside.mkdir()
    (aside / "results.json").write_text("{}")
    assert [(r.set, r.experiment, list(r.results)) for r in load_rows(tmp_path / "runs")] == [
        ("set", "lower", [Run(0)])
    ]
    for place in ("nowhere", "runs/set"):
        with pytest.raises(DataError, match=f"{place} holds no finished run"):
            load_rows(tmp_path / place)
    (run / "results.json").write_text('{"half')
    with pytest.raises(DataError, match="holds no finished run"):
        load_rows(tmp_path / "runs")
    assert "results.json is damaged" in capsys.readouterr().err


def test_the_command_keeps_what_stands_above_the_mark(tmp_path: Path):
    import typer

    run = tmp_path / "runs/set/lower/seed0"
    run.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(row("lower", {"a": [0.5]}).results[Run(0)]))
    (tmp_path / "R.md").write_text(f"mine\n{command.MARK}\nold")
    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, [str(tmp_path / "runs"), "--write", str(tmp_path / "R.md")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "R.md").read_text()
    assert text.startswith(f"mine\n{command.MARK}\n\n### set\n")
    assert "old" not in text
    assert CliRunner().invoke(app, [str(tmp_path / "nowhere")]).exit_code == 1
