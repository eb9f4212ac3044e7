"""Each method's row in the registry and its configuration keys."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fedssl.config import MethodConfig, RunConfig, flatten
from fedssl.errors import ConfigError
from fedssl.federation import load_federation
from fedssl.methods import METHODS, load_config


def test_the_registry_key_is_the_name_and_the_summary_is_one_line(method: str):
    row = METHODS[method]
    assert row.name == method
    assert 0 < len(row.summary) <= 100
    assert "\n" not in row.summary


def test_the_configuration_is_frozen_and_every_key_has_a_default(method: str):
    config = METHODS[method].config()
    assert isinstance(config, MethodConfig)
    for name in type(config).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, name, getattr(config, name))


def test_every_key_is_flattened_under_the_name_of_the_method_and_read_back(method: str):
    run = load_config({"method": method})
    flat = flatten(run)
    own = {k.removeprefix(f"{method}.") for k in flat if k.startswith(f"{method}.")}
    assert own == {n.replace("_", "-") for n in METHODS[method].config.model_fields}
    assert all(isinstance(v, bool | int | float | str) for v in flat.values())
    assert load_config(flat) == run


def test_an_unknown_key_of_the_method_is_refused(method: str):
    with pytest.raises(ConfigError, match=rf"Unknown key '{method}\.no-such-key'"):
        load_config({"method": method, f"{method}.no-such-key": 1})


def test_the_default_configuration_works_on_both_kinds_of_output(method: str):
    for name in ("synthetic-fundus", "synthetic-prostate"):
        run = load_config({"method": method, "federation": name, "model.width": 4})
        row = METHODS[method]
        task = row.task(load_federation(run).task)
        model = row.build_model(run, task)
        assert "shared" in row.parts(model)
        row.payload(run, task, dict(model.state_dict()))


def test_parts_name_every_entry_of_the_state_once(method: str):
    run = RunConfig().model_copy(update={"method_config": METHODS[method].config()})
    model = METHODS[method].build_model(run, load_federation(run).task)
    names = [name for part in METHODS[method].parts(model).values() for name in part]
    assert sorted(names) == sorted(model.state_dict())
