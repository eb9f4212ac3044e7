"""A real SuperNode comes late."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback_processes import start_node, wait_until

from fedssl.app_config import stage_app
from fedssl.cli.superlink import SuperLink, superlink
from fedssl.config import Scalar, flatten
from fedssl.methods import load_config

pytestmark = [pytest.mark.federation, pytest.mark.timeout(900)]


def submit(link: SuperLink, flat: dict[str, Scalar], out: Path) -> str:
    config = flatten(load_config({**flat, "cache-dir": "", "out": str(out)}))
    return link.submit(stage_app(out.with_name("app")), config, {})


def test_a_site_that_starts_late_takes_part_from_a_later_round(
    tiny: dict[str, Scalar], federation: Path, tmp_path: Path
) -> None:
    rounds, nodes = tmp_path / "out/rounds.jsonl", []

    def took_part() -> list[list[str]]:
        lines = rounds.read_text().splitlines() if rounds.exists() else []
        return [sorted(json.loads(line)["sites"]) for line in lines]

    with superlink(simulation=False) as link:
        try:
            for name in ("north", "south"):
                site_file = federation.with_name(f"{name}.toml")
                nodes.append(start_node(link, name, site_file, tmp_path))
                if name == "north":
                    submit(link, {**tiny, "rounds": 500, "local-steps": 1}, tmp_path / "out")
                wait_until(lambda last=name: any(last in sites for sites in took_part()), 300)  # type: ignore[misc]  # the default binds the name
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:
                node.wait(30)
    joined = took_part().index(["north", "south"])
    assert joined >= 1
    assert took_part()[:joined] == [["north"]] * joined
