"""pyproject.toml holds what Flower needs, exactly as the typed configuration has it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import fedssl
from fedssl.app_config import (
    MARKER,
    app_block,
    declared_requirements,
    default_config,
    stage_app,
    uv_block,
    with_blocks,
)
from fedssl.config import RunConfig, flatten
from fedssl.errors import ConfigError
from fedssl.fingerprint import package_folders
from fedssl.methods import METHODS, load_config

ROOT = Path(fedssl.__file__).resolve().parents[1]


def test_pyproject_is_what_the_models_and_the_dependencies_give() -> None:
    # A key that is missing cannot be overridden under `flwr run`; a dependency that uv is not told
    # to leave alone makes `flwr run` download it, or fail without a network.
    text = (ROOT / "pyproject.toml").read_text()
    assert text == with_blocks(text), "run: python -m fedssl.app_config"


def test_rewriting_replaces_what_is_generated_and_keeps_the_rest() -> None:
    text = '[project]\ndependencies = ["torch>=2"]\n# a comment\n'
    with pytest.raises(ConfigError, match="From here on generated"):
        with_blocks(text)
    written = with_blocks(f"{text}{MARKER}\n[tool.uv]\nstale = 1\n")
    assert written.startswith(text)
    tool = tomllib.loads(written)["tool"]
    assert tool["uv"] == {"override-dependencies": ["torch ; python_version < '0'"]}
    assert tool["flwr"] == tomllib.loads(app_block())["tool"]["flwr"]


def test_requirements_come_from_dependencies_extras_and_groups() -> None:
    parsed = {
        "project": {
            "dependencies": ["flwr[simulation]>=1.41,<1.43"],
            "optional-dependencies": {"test": ["PyYAML ; python_version > '3'"]},
        },
        "dependency-groups": {"dev": ["ruff", {"include-group": "test"}, "my_tool.x==1"]},
    }
    assert tomllib.loads(uv_block(declared_requirements(parsed)))["tool"]["uv"] == {
        "override-dependencies": [
            f"{name} ; python_version < '0'" for name in ("flwr", "my-tool-x", "pyyaml", "ruff")
        ]
    }


def test_the_defaults_of_flower_are_those_of_the_models() -> None:
    run = load_config(default_config())
    assert run.federation == "synthetic-pair"
    expected = flatten(load_config({}))
    assert flatten(run) == {**expected, "federation": "synthetic-pair"}


def test_every_key_of_every_method_can_be_overridden() -> None:
    keys = set(default_config())
    assert set(flatten(RunConfig())) <= keys
    for name, method in METHODS.items():
        assert set(flatten(method.config(), f"{name}.")) <= keys


def test_flower_reads_the_block_back_as_flat_keys() -> None:
    from flwr.common.config import flatten_dict

    config = tomllib.loads(app_block())["tool"]["flwr"]["app"]["config"]
    flat = flatten_dict(config)
    assert flat == default_config()
    assert {k: type(v) for k, v in flat.items()} == {
        k: type(v) for k, v in default_config().items()
    }


def test_the_staged_app_is_the_running_code(tmp_path: Path) -> None:
    app = stage_app(tmp_path)
    staged = {p.relative_to(app): p.read_bytes() for p in app.rglob("*") if p.is_file()}
    project = tomllib.loads(staged.pop(Path("pyproject.toml")).decode())
    assert staged == {
        p.relative_to(folder.parent): p.read_bytes()
        for folder in package_folders()
        for p in folder.rglob("*.py")
    }
    assert project["project"]["version"] == fedssl.__version__
    assert project["tool"]["flwr"]["app"] == tomllib.loads(app_block())["tool"]["flwr"]["app"]
