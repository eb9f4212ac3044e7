"""Flat keys to a typed configuration and back; every problem is named with its key."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedssl.cli.options import collect, parse_assignments, read_experiment
from fedssl.config import RunConfig, flatten
from fedssl.errors import ConfigError
from fedssl.methods import load_config
from fedssl.results import config_toml


def problems(*pairs: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(parse_assignments(list(pairs)))
    return str(raised.value)


def test_every_key_has_a_default_and_flattening_is_undone_by_parsing():
    run = load_config({})
    assert run.method == "denoise"
    flat = flatten(run)
    assert load_config(flat) == run
    assert {"rounds", "local-steps", "model.width", "evaluate.every", "denoise.mu"} <= flat.keys()
    assert not [key for key in flat if "_" in key.partition(".")[2] or "_" in key]


@pytest.mark.parametrize("key", ["rounds", "lr", "denoise.mu", "model.width", "quality.gamma"])
def test_a_switch_is_no_number(key: str):
    assert f"Key '{key}': expected a number, not true or false" in problems(f"{key}=true")
    assert load_config({"resume": True}).resume is True


TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=12)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(out=TEXT, lr=st.floats(0, 1), seed=st.integers(0, 2**63 - 1), resume=st.booleans())
def test_a_written_configuration_is_read_back(
    out: str, lr: float, seed: int, resume: bool, tmp_path: Path
):
    run = load_config({"out": out, "lr": lr, "seed": seed, "resume": resume, "denoise.mu": "auto"})
    path = tmp_path / "config.toml"
    path.write_text(config_toml(flatten(run)), encoding="utf-8")
    assert load_config(read_experiment(path)) == run


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rounds=3", 3),
        ("lr = 1e-3", 1e-3),
        ("resume=true", True),
        ('method="fedavg"', "fedavg"),
        ("method=fedavg", "fedavg"),
        ("image-size=96,128", "96,128"),
        ("labeled-sites=a,b", "a,b"),
        ("out=", ""),
        ("out=a=b", "a=b"),
    ],
)
def test_an_assignment_is_a_toml_value_or_else_plain_text(text: str, value: object):
    (parsed,) = parse_assignments([text]).values()
    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds", "Expected key=value, got 'rounds', e.g. --set rounds=10."),
        ("=3", "Expected key=value, got '=3'"),
        ("sites=[1, 2]", "Key 'sites' takes one value, got '[1, 2]'."),
        ("lr=2020-01-01", "Key 'lr' takes one value"),
    ],
)
def test_what_is_no_assignment_is_refused(text: str, message: str):
    with pytest.raises(ConfigError) as raised:
        parse_assignments([text])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("round=3", "Unknown key 'round'. Did you mean 'rounds'?"),
        ("denoise.muu=1", "Unknown key 'denoise.muu'. Did you mean 'denoise.mu'"),
        ("modle.width=4", "Unknown key 'modle.width'. Did you mean 'model.width'"),
        ("method=denoize", "Unknown method 'denoize'. Did you mean 'denoise'"),
        ("rounds=0", "Key 'rounds': Input should be greater than or equal to 1; got 0."),
        ("rounds=many", "got 'many'."),
        ("lr=nan", "Key 'lr': Input should be a finite number; got nan."),
        ("model=3", "Key 'model' is a section; it takes no value itself, got 3."),
        ("device=tpu", "Key 'device': String should match pattern"),
        ("image-size=96,0", "Key 'image-size': expected up to three positive integers"),
        ("image-size=1,2,3,4", "expected up to three positive integers"),
        ("split.fold=4", "Key 'split.fold': 4 must be below 'split.folds' = 4."),
        ("denoise.mu=1.5", "Key 'denoise.mu': expected 'auto' or a number in [0, 1]; got 1.5."),
        ("denoise.mu=half", "got 'half'."),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_would_work(pair: str, message: str):
    assert message in problems(pair)


def test_a_section_that_is_also_given_a_value_is_refused_in_any_order():
    message = "Key 'model' is a section ('model.width'); it takes no value itself."
    assert message in problems("model=3", "model.width=4")
    assert message in problems("model.width=4", "model=3")


def test_all_problems_come_in_one_message():
    text = problems("rounds=0", "lrr=1", "denoise.eta=-1", "fedavg.x=1")
    for key in ("'rounds'", "'lrr'", "'denoise.eta'", "'fedavg.x'"):
        assert key in text
    assert len(text.splitlines()) == 4


def test_sizes_may_come_as_a_number_and_with_spaces():
    run = load_config({"image-size": 96, "patch-size": " 64, 32 "})
    assert (run.image_size, run.patch_size) == ("96", "64,32")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().rounds = 3  # type: ignore[misc]  # frozen, which is the point


def test_later_sources_win_over_earlier_ones(tmp_path: Path):
    file = tmp_path / "experiment.toml"
    file.write_text('rounds = 5\nseed = 1\nmethod = "fedavg"\n[model]\nwidth = 8\n')
    flat = collect(None, None, 7, None, file, ["seed=2", "model.depth=2"])
    assert flat == {
        "rounds": 7,
        "seed": 2,
        "method": "fedavg",
        "model.width": 8,
        "model.depth": 2,
    }


def test_an_experiment_file_that_cannot_be_read_is_named(tmp_path: Path):
    missing, broken = tmp_path / "no.toml", tmp_path / "broken.toml"
    with pytest.raises(ConfigError, match=r"no\.toml cannot be read"):
        read_experiment(missing)
    broken.write_text("rounds = ")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        read_experiment(broken)
    broken.write_text('extends = ["a.toml", "b.toml"]\n')
    with pytest.raises(ConfigError, match=r"'extends' takes the name of one file.*'b\.toml'"):
        read_experiment(broken)


def test_infinity_is_no_value():
    assert "Key 'lr'" in problems(f"lr={math.inf}")
