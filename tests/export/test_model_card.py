"""A model card says of an export only what was measured with it, and who took part in the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from networks import simulated, untrained
from tiny_federations import write_federation

from fedssl.errors import CheckpointError, ConfigError
from fedssl.export.card import model_card
from fedssl.export.metadata import UNKNOWN, describe, site_layers
from fedssl.export.record import RunRecord, run_record
from fedssl.export.write import Form, export_run
from fedssl.functional.averaging import weights_sha256
from fedssl.predict import Trained
from fedssl.types import Output, Task

NESTED = Task("eyes", ("background", "disc", "cup|rim\\edge"), output=Output.NESTED, channels=3)
EXCLUSIVE = Task("eyes", ("background", "disc", "cup"), channels=3)


def site(role: str, dice: float | None, **other: Any) -> dict[str, Any]:
    """Return a site of results.json with one score for all."""
    scores = dict.fromkeys(NESTED.foreground, dice)
    return {
        "role": role,
        "split": "test",
        "cases": 0 if dice is None else 3,
        "dice": scores,
        "hd95": scores,
        "assd": scores,
        "distance_unit": "pixel",
        "num_examples": 71,
        "num_labeled": 71 if role == "labeled" else 0,
        **other,
    }


def record(trained: tuple[str, ...], **sites: dict[str, Any]) -> RunRecord:
    """Return what a run of these sites would have left."""
    return RunRecord.model_validate(
        {
            "seed": 0,
            "rounds": 1,
            "engine": "loopback",
            "weights_sha256": "abc",
            "versions": {},
            "finished": "",
            "mean_dice": 0.25,
            "sites": {n: {**table, "trained": n in trained} for n, table in sites.items()},
        }
    )


def card(trained: Trained, run: RunRecord, state: str = "") -> str:
    return model_card(trained, run, describe(trained, run, state), "Run it.")


def test_a_site_that_did_not_train_is_said_to_be_evaluated_only() -> None:
    run = record(("north",), north=site("labeled", 0.5), south=site("unlabeled", 0.0))
    text = card(untrained(NESTED), run)
    assert ": trained at north; evaluated only at south.\n" in text
    assert "| north | labeled | trained | 71 | 71 |" in text
    assert "| south | unlabeled | evaluated only | - | - |" in text
    assert "Trained without masks of" not in text


def test_an_unlabeled_site_that_trained_did_so_without_masks() -> None:
    run = record(("north", "south"), north=site("labeled", 0.5), south=site("unlabeled", 0.0))
    text = card(untrained(NESTED), run)
    assert ": trained at north, south.\n" in text
    assert "| south | unlabeled | trained | 71 | 0 |" in text
    assert "Trained without masks of south." in text


def test_a_site_that_did_not_answer_is_not_said_to_have_no_masks() -> None:
    run = record(
        ("north", "south"),
        north=site("labeled", 0.25),
        south=site("labeled", None, answered=False),
        west=site("unlabeled", None, answered=True),
        east=site("unlabeled", None),
    )
    trained = untrained(NESTED)
    text = card(trained, run)
    assert "Did not answer the final evaluation: south.\n" in text
    assert "No masks to score with, so quality is unknown: west, east.\n" in text
    assert "Mean Dice over the classes at north: 0.250." in text
    assert "| south | disc | - | - | - | - |" in text
    assert "| west | unlabeled | none | - | - |" in text
    assert describe(trained, run)["fedssl"]["mean_dice_sites"] == ["north"]


def test_scores_of_other_layers_are_not_said_to_be_the_exports() -> None:
    run = record(("north", "south"), north=site("labeled", 0.5), south=site("labeled", 0.0))
    trained = untrained(NESTED, "fedbn", **{"model.norm": "batch"})
    text = card(trained, run, "north")
    assert "each site with its own private layers" in text
    assert "the private layers of north; the other rows do not describe it" in text
    assert "Mean Dice over the classes at north: 0.500." in text
    assert "global model" not in text
    assert "Holds layers of north; elsewhere" in text
    metadata = describe(trained, run, "north")
    assert metadata["eval_metrics"] == {"mean_dice": 0.5}
    assert metadata["fedssl"]["layers_of_site"] == "north"


def test_an_export_with_a_sites_state_names_the_site(tmp_path: Path) -> None:
    federation = write_federation(tmp_path / "data", {"north": "labeled", "south": "labeled"})
    run = simulated(tmp_path, federation, {"method": "fedbn", "rounds": 1, "local-steps": 1})
    exports = {
        name: export_run(run, Form.TORCHSCRIPT, tmp_path / name, state=run / "sites" / name)
        for name in ("north", "south")
    }
    for name, metadata in exports.items():
        assert metadata["fedssl"]["layers_of_site"] == name
        assert f"Holds layers of {name};" in (tmp_path / name / "README.md").read_text()
    assert len({m["fedssl"]["weights_sha256"] for m in exports.values()}) == 1
    assert len({m["fedssl"]["exported_sha256"] for m in exports.values()}) == 2


def test_a_state_directory_of_another_name_stands_for_one_site() -> None:
    run = record(("north", "south"), north=site("labeled", 0.5), south=site("labeled", 0.0))
    trained = untrained(NESTED, "fedbn", **{"model.norm": "batch"})
    text = card(trained, run, "state")
    assert "the private layers of one site; the rows of the others do not describe it" in text
    assert "Mean Dice" not in text
    assert describe(trained, run, "state")["fedssl"]["layers_of_site"] == UNKNOWN


def test_what_is_exported_has_a_digest_of_its_own() -> None:
    trained = untrained(NESTED, "fedbn", **{"model.norm": "batch"})
    run = record(("north",), north=site("labeled", 0.5))
    facts = describe(trained, run)["fedssl"]
    assert facts["weights_sha256"] == "abc"
    assert facts["exported_sha256"] == weights_sha256(trained.model.state_dict())
    assert facts["exported_sha256"] in card(trained, run)


@pytest.mark.parametrize(
    ("method", "keys", "answer_depends"),
    [
        ("fedavg", {}, False),
        ("fedbn", {"model.norm": "group"}, True),
        ("mutual", {"mutual.shared": "private_decoder2"}, False),
    ],
)
def test_layers_of_a_site_count_where_the_answer_depends_on_them(
    method: str, keys: dict[str, Any], answer_depends: bool
) -> None:
    assert site_layers(untrained(EXCLUSIVE, method, **keys)) is answer_depends


def test_names_cannot_break_a_table() -> None:
    text = card(untrained(NESTED), record(("north",), north=site("labeled", 0.5)))
    assert "| 2 | cup\\|rim\\\\edge |" in text
    assert "| north | cup\\|rim\\\\edge | 3 | 0.500 |" in text


@pytest.mark.parametrize("key", ["sites", "mean_dice", "sites.north.dice"])
def test_a_missing_key_of_the_results_is_named(key: str, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "rounds.jsonl", tmp_path)
    results = json.loads((finished / "results.json").read_text())
    *way, last = key.split(".")
    table = results
    for step in way:
        table = table[step]
    del table[last]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=rf"results\.json, key '{key}'"):
        run_record(tmp_path)


@pytest.mark.parametrize("text", [None, "{", '{"round": 0}\n', "[]\n"])
def test_a_run_that_does_not_say_who_trained_is_named(
    text: str | None, finished: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "results.json", tmp_path)
    if text is not None:
        (tmp_path / "rounds.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl"):
        run_record(tmp_path)


def test_a_run_is_read_with_who_trained(finished: Path) -> None:
    run = run_record(finished)
    assert (run.who("trained"), run.who("evaluated only")) == (["north", "south"], ["west"])
    assert all(entry.answered for entry in run.sites.values())
