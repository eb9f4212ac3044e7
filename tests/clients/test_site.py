"""A node finds its site: by partition in simulation, by its own files in deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.site import find_place
from fedssl.config import Scalar
from fedssl.errors import ConfigError, FederationError
from fedssl.types import Role

SITE = """\
[task]
classes = ["background", "disc", "cup"]
channels = 3
[[site]]
name = "own"
role = "unlabeled"
path = "scans"
"""


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Scalar]:
    (tmp_path / "site.toml").write_text(SITE)
    return {"site-file": str(tmp_path / "site.toml"), "state-dir": str(tmp_path / "state")}


def simulated(partition: int, nodes: int) -> dict[str, Scalar]:
    return {"partition-id": partition, "num-partitions": nodes}


def test_a_simulated_node_is_the_site_at_its_position(tmp_path: Path) -> None:
    run = {"federation": "synthetic-pair", "out": str(tmp_path), "method": "fedavg"}
    first, second = (find_place(simulated(i, 2), run, 7) for i in range(2))
    assert (first.spec.name, first.spec.role) == ("clinic_a", Role.LABELED)
    assert (second.spec.name, second.spec.role) == ("clinic_c", Role.UNLABELED)
    assert first.state == tmp_path / "sites" / "clinic_a"
    assert second.state == tmp_path / "sites" / "clinic_c"


def test_without_out_every_run_has_a_folder_of_its_own_under_the_home_directory() -> None:
    run = {"federation": "synthetic-pair", "method": "fedavg"}
    states = [find_place(simulated(0, 2), run, number).state for number in (7, 8)]
    base = Path.home() / "fedssl-runs"
    assert states == [base / f"fedavg-{n}" / "sites" / "clinic_a" for n in (7, 8)]


def test_a_wrong_number_of_nodes_names_both_numbers_and_the_option() -> None:
    with pytest.raises(FederationError) as caught:
        find_place(simulated(0, 3), {"federation": "synthetic"}, 1)
    text = str(caught.value)
    assert "3 nodes" in text
    assert "5 sites" in text
    assert '--federation-config "num-supernodes=5 client-resources-num-cpus=1"' in text


@pytest.mark.parametrize("key", ["out", "federation", "data-root", "cache-dir"])
def test_a_relative_path_names_its_key_and_the_remedy(key: str) -> None:
    run = {"federation": "synthetic-pair", key: "here"}
    with pytest.raises(ConfigError, match=rf"{key} = 'here'.*absolute path.*'fedssl run'"):
        find_place(simulated(0, 2), run, 1)


def test_a_deployed_node_reads_its_own_site_file(node: dict[str, Scalar], tmp_path: Path) -> None:
    place = find_place(node, {"method": "fedavg"}, 1)
    assert place.spec.name == "own"
    assert place.spec.path == str(tmp_path / "scans")
    assert place.task.classes == ("background", "disc", "cup")
    assert place.state == tmp_path / "state"


def test_the_coordinator_cannot_point_a_deployed_site_at_a_path(
    node: dict[str, Scalar], tmp_path: Path
) -> None:
    run = dict.fromkeys(("out", "data-root", "cache-dir"), "/etc/chosen-by-coordinator")
    place = find_place(node, run, 1)
    assert "chosen-by-coordinator" not in f"{place!r}"
    assert place.run.cache_dir == str(tmp_path / "state" / "cache")


@pytest.mark.parametrize("key", ["site-file", "state-dir"])
def test_a_supernode_without_its_keys_is_told_how_to_start(
    node: dict[str, Scalar], key: str
) -> None:
    del node[key]
    with pytest.raises(ConfigError, match=rf"without {key}.*--node-config"):
        find_place(node, {}, 1)
