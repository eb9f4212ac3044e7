"""A run of two sites, for the tests of the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tiny_federations import (
    open_sites,
    tiny_run,
    write_federation,
)

from fedssl.config import RunConfig, Scalar
from fedssl.site import Site

PAIR = {"north": "labeled", "west": "unlabeled"}

DENOISE: dict[str, Scalar] = {"denoise.warmup-rounds": 0, "denoise.passes": 1}


@pytest.fixture
def configure(tmp_path: Path, prepared_cache: Path) -> Callable[..., RunConfig]:
    def build(
        method: str = "fedavg",
        keys: Mapping[str, Scalar] | None = None,
        roles: Mapping[str, str] = PAIR,
    ) -> RunConfig:
        own = DENOISE if method == "denoise" else {}
        file = write_federation(tmp_path / "-".join(roles), roles)
        flat = {"method": method, "rounds": 2, "local-steps": 1, **own, **(keys or {})}
        return tiny_run(file, prepared_cache, flat)

    return build


@pytest.fixture
def sites(configure: Callable[..., RunConfig], tmp_path: Path) -> dict[str, Site]:
    return open_sites(configure(), tmp_path / "sites")
