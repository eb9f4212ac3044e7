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

GUIDE: dict[str, Scalar] = {
    "quality.predictor-rounds": 1,
    "quality.predictor-steps": 2,
    "quality.width": 4,
    "quality.threshold": 0.0,
    "quality.gate-correlation": -1.0,
    "quality.gate-blackout": 1.01,
}
"""A quality predictor that is small, hardly trained, and trusted nevertheless."""

GUIDED = {
    f"guided-{name}": name
    for name, method in METHODS.items()
    if method.unlabeled is not None and name != "quality"
}
"""Methods that are run with a quality predictor as well; `quality` always has one."""

MISSION = {
    *("fedavg", "denoise", "mutual", "reference", "quality"),
    *("guided-denoise", "guided-mutual", "guided-reference"),
}
"""Of these every promise is tested in each run of the suite; of others the long ones, and of other
guided methods all of them, only in `make test-slow`."""

LONG = {
    "test_a_run_resumes_after_every_round",
    "test_a_run_resumes_when_a_site_died_while_it_wrote",
    "test_resuming_a_finished_run_changes_nothing",
    "test_a_federation_may_lack_roles",
    "test_a_site_that_comes_late_is_as_one_that_was_away_until_then",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark long promises of the many baselines, and their guided forms, as slow."""
    for item in items:
        variant = getattr(getattr(item, "callspec", None), "params", {}).get("variant", "fedavg")
        long = variant in GUIDED or getattr(item, "originalname", "") in LONG
        if long and variant not in MISSION:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=list(METHODS), scope="session")
def method(request: pytest.FixtureRequest) -> str:
    """A method of the registry, for what needs no run."""
    return str(request.param)


@pytest.fixture(params=[*METHODS, *GUIDED], scope="session")
def variant(request: pytest.FixtureRequest) -> str:
    """A method, or one that is guided."""
    return str(request.param)


@pytest.fixture(scope="session")
def configure(
    variant: str, tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path
) -> Configure:
    default = write_federation(tmp_path_factory.mktemp("sites"))

    def build(
        keys: Mapping[str, Scalar] | None = None, roles: Mapping[str, str] | None = None
    ) -> RunConfig:
        file = write_federation(tmp_path_factory.mktemp("sites"), roles) if roles else default
        method = GUIDED.get(variant, variant)
        guide = {**GUIDE, "quality.guide": variant in GUIDED}
        flat = {"method": method, **guide, **SETTINGS.get(method, {}), **(keys or {})}
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
