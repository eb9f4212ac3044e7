"""Configure and run `denoise` and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from denoise_runs import BASE, PAIR, Start
from tiny_federations import (
    Finished,
    run_watched,
    tiny_run,
    write_federation,
)

from fedssl.config import RunConfig, Scalar


@pytest.fixture
def configure(tmp_path: Path, prepared_cache: Path) -> Callable[..., RunConfig]:
    def build(method: str, keys: Mapping[str, Scalar], roles: Mapping[str, str]) -> RunConfig:
        own = BASE if method == "denoise" else {}
        file = write_federation(tmp_path / "-".join(roles), roles)
        return tiny_run(file, prepared_cache, {"method": method, "rounds": 3, **own, **keys})

    return build


@pytest.fixture
def start(configure: Callable[..., RunConfig], tmp_path: Path) -> Start:
    def run(
        method: str = "denoise",
        keys: Mapping[str, Scalar] | None = None,
        roles: Mapping[str, str] | None = None,
        **watch: object,
    ) -> Finished:
        config = configure(method, keys or {}, roles or PAIR)
        return run_watched(config, tmp_path / f"run{len(list(tmp_path.iterdir()))}", **watch)

    return run
