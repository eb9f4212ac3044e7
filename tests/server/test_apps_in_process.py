"""ServerApp and ClientApp together, without Flower's processes: the weights are the loopback's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from in_process_grid import InProcessGrid, Node
from rich.console import Console

from clients.app import app as client_app
from fedssl.config import Scalar
from fedssl.errors import ConfigError, FederationError
from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.progress import ConsoleProgress
from server.app import app as server_app

TASK = """\
[task]
name = "synthetic-fundus"
classes = ["background", "disc", "cup"]
output = "nested"
channels = 3
"""
SITE = """
[[site]]
name = "{name}"
role = "{role}"
layout = "synthetic"
{extra}
options = {{ kind = "fundus", look = {look}, images = 8, size = 32 }}
"""
ROLES = {"north": "labeled", "south": "mixed", "west": "unlabeled"}
METHODS: dict[str, dict[str, Scalar]] = {
    "fedavg": {"method": "fedavg"},
    "denoise": {
        "method": "denoise",
        "denoise.warmup-rounds": 1,
        "denoise.passes": 2,
        "denoise.source": "labeled_avg",
        "denoise.prototypes": "labeled",
    },
}


@pytest.fixture(autouse=True)
def _tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the ServerApp does to a process that is about to end."""
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Path]:
    """A site file per site, and the federation file with all of them beside."""
    tables = {
        name: SITE.format(name=name, role=role, look=look, extra="labeled = 2" * (role == "mixed"))
        for look, (name, role) in enumerate(ROLES.items())
    }
    (tmp_path / "federation.toml").write_text(TASK + "".join(tables.values()))
    for name, table in tables.items():
        (tmp_path / f"{name}.toml").write_text(TASK + table)
    return {name: tmp_path / f"{name}.toml" for name in ROLES}


def flat(tmp_path: Path, **method: Scalar) -> dict[str, Scalar]:
    return {
        "federation": str(tmp_path / "federation.toml"),
        "out": str(tmp_path / "out"),
        "cache-dir": str(tmp_path / "cache"),
        "rounds": 2,
        "local-steps": 1,
        "batch-size": 2,
        "model.width": 2,
        "model.depth": 1,
        "device": "cpu",
        "evaluate.every": 1,
        "evaluate.overlays": 0,
        "tracking": "",
        "min-labeled": 2,
        "round-timeout": 60.0,
        **method,
    }


def node(site_file: Path, config: dict[str, Scalar], role_of_sender: str = "") -> Node:
    """Return a node that runs the ClientApp as a SuperNode does."""
    node_config = {"site-file": str(site_file), "state-dir": str(site_file.with_suffix(""))}

    def answer(message: Message) -> Message:
        if role_of_sender and message.metadata.message_type.startswith("train."):
            message.metadata.message_type = f"train.{role_of_sender}"
        return client_app(message, Context(1, 1, node_config, RecordDict(), config))

    return answer


def serve(grid: InProcessGrid, config: dict[str, Scalar]) -> None:
    server_app(grid, Context(1, 0, {}, RecordDict(), config))


@pytest.mark.parametrize(
    ("keys", "all_masks"), [({}, False), ({}, True), ({"transfer": "fp16"}, False)]
)
@pytest.mark.parametrize("method", METHODS)
def test_the_apps_give_the_weights_of_the_loopback(
    method: str, keys: dict[str, Scalar], all_masks: bool, sites: dict[str, Path], tmp_path: Path
) -> None:
    for file in tmp_path.glob("*.toml") if all_masks else []:
        # No image is left without a mask at the mixed site.
        file.write_text(file.read_text().replace("labeled = 2", ""))
    config = flat(tmp_path, **METHODS[method], **keys)
    grid = InProcessGrid({i: node(path, config) for i, path in enumerate(sites.values(), 5)})
    serve(grid, config)
    quiet = ConsoleProgress(Console(quiet=True))
    simulate(load_config(config), tmp_path / "loopback", progress=quiet)
    ours, expected = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "loopback")
    )
    assert ours["engine"] == "deployment"
    assert ours["weights_sha256"] == expected["weights_sha256"]
    assert ours["bytes_up"] == expected["bytes_up"] > 0
    assert {n: s["dice"] for n, s in ours["sites"].items()} == {
        n: s["dice"] for n, s in expected["sites"].items()
    }


def test_a_client_refuses_an_action_that_is_not_its_role(
    sites: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = flat(tmp_path, **METHODS["denoise"]) | {"round-timeout": 20.0}
    grid = InProcessGrid({1: node(sites["north"], config), 2: node(sites["south"], config)})
    grid.nodes[3] = node(sites["west"], config, role_of_sender="labeled")
    with pytest.raises(FederationError, match=r"0 of 1 unlabeled.*west"):
        serve(grid, config)
    assert "Site 'west' is unlabeled and refuses the message 'train.labeled'" in caplog.text


def test_what_is_sent_holds_no_path_and_no_name_of_a_case(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    config = flat(tmp_path, **METHODS["denoise"])
    grid = InProcessGrid({i: node(path, config) for i, path in enumerate(sites.values())})
    seen: list[str] = []

    def listening(inner: Node) -> Node:
        def answer(message: Message) -> Message | None:
            reply = inner(message)
            assert reply is not None
            content = reply.content
            seen.extend(f"{name} {record!r}" for name, record in content.config_records.items())
            seen.extend(f"{name} {record!r}" for name, record in content.metric_records.items())
            seen.extend(key for record in content.array_records.values() for key in record)
            return reply

        return answer

    grid.nodes = {number: listening(inner) for number, inner in grid.nodes.items()}
    serve(grid, config)
    text = "\n".join(seen)
    assert "num-examples" in text
    for private in (str(tmp_path), tmp_path.name, "image_0", "subject_0"):
        assert private not in text


def test_a_site_that_cannot_read_its_data_tells_no_path(
    sites: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "scans of Jane Doe"
    table = f'[[site]]\nname = "west"\nrole = "unlabeled"\npath = "{secret}"\n'
    sites["west"].write_text(TASK + table)
    config = flat(tmp_path, **METHODS["denoise"])
    config["round-timeout"] = 2.0
    replies: list[Message] = []

    def listening(message: Message) -> Message | None:
        replies.append(node(sites["west"], config)(message))  # type: ignore[arg-type]  # flat keys of several types
        return replies[-1]

    grid = InProcessGrid({1: node(sites["north"], config), 2: node(sites["south"], config)})
    grid.nodes[3] = listening
    with pytest.raises(FederationError, match="0 unlabeled sites, but min-unlabeled = 1"):
        serve(grid, config)
    reason = replies[0].error.reason
    assert reason is not None
    assert reason.startswith("DataError: Site <...>: the folder <...>")
    assert "Jane" not in reason
    assert str(secret) in caplog.text  # the site's own log
    assert sys.tracebacklimit == 0


@pytest.mark.parametrize("key", ["federation", "data-root", "out", "cache-dir"])
def test_a_relative_path_is_refused_before_anything_is_sent(key: str, tmp_path: Path) -> None:
    grid = InProcessGrid({})
    config = {**flat(tmp_path), key: "some/where"}
    with pytest.raises(ConfigError, match=rf"{key} = 'some/where'.*absolute.*fedssl run"):
        serve(grid, config)
    assert not grid.sent
