"""Every method of the registry keeps the same promises; a new method is tested by being in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tiny_federations import Configure, Finished, run_watched, tiny_run, write_federation

from fedssl.config import RunConfig, Scalar
from fedssl.methods import METHODS

SETTINGS: dict[str, dict[str, Scalar]] = {
    "denoise": {
        "denoise.warmup-rounds": 1,
        "denoise.refresh": 2,
        "denoise.passes": 2,
        "denoise.prototypes": "mix",
        "denoise.source": "ensemble",
    },
}
"""Keys with which a method shows all of its stages within four rounds; others take defaults."""


@pytest.fixture(params=list(METHODS), scope="session")
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def configure(
    method: str, tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path
) -> Configure:
    default = write_federation(tmp_path_factory.mktemp("sites"))

    def build(
        keys: Mapping[str, Scalar] | None = None, roles: Mapping[str, str] | None = None
    ) -> RunConfig:
        file = write_federation(tmp_path_factory.mktemp("sites"), roles) if roles else default
        flat = {"method": method, **SETTINGS.get(method, {}), **(keys or {})}
        return tiny_run(file, prepared_cache, flat)

    return build


@pytest.fixture(scope="session")
def whole(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An uninterrupted run of the method over a labeled, a mixed and an unlabeled site."""
    run = configure({"evaluate.overlays": 1})
    return run_watched(run, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def repeat(tmp_path: Path) -> Callable[..., Finished]:
    """Run a configuration to its end in a folder of its own."""

    def run(config: RunConfig, **watch: object) -> Finished:
        return run_watched(config, tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **watch)

    return run
