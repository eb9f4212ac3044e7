"""An exchange over a grid in this process, and nodes that answer or fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import Message
from in_process_grid import InProcessGrid, Node

from fedssl.config import RunConfig
from fedssl.methods import load_config
from fedssl.types import Download, Role, SiteInfo, Upload
from fedssl.wire import pack_upload, unpack_download
from server.exchange import GridExchange
from server.strategy import FederationStrategy

WEIGHTS = {"w": torch.arange(3.0)}


def site(name: str, role: Role = Role.LABELED) -> Node:
    """Return a node that adds 1 to its weights."""

    def answer(message: Message) -> Message:
        download = unpack_download(message.content)
        weights = {k: v + 1 for k, v in download.weights.items()}
        upload = Upload(name, role, download.round, download.stage, 5, 5, weights)
        return Message(pack_upload(upload), reply_to=message)

    return answer


def failing(name: str, role: Role, reply: Callable[[Message], Message | None]) -> Node:
    """Return a node that describes itself, but answers everything else with `reply`."""
    healthy = site(name, role)

    def answer(message: Message) -> Message | None:
        described = message.metadata.message_type == "query.describe"
        return healthy(message) if described else reply(message)

    return answer


def config(**keys: object) -> RunConfig:
    return load_config(
        {
            "method": "denoise",
            "round-timeout": 1.5,
            **{k.replace("_", "-"): v for k, v in keys.items()},
        }
    )


def exchange(
    nodes: dict[int, Node], kind: type[InProcessGrid] = InProcessGrid, **keys: object
) -> tuple[GridExchange, InProcessGrid]:
    grid = kind(nodes)
    run = config(**keys)
    return GridExchange(grid, run, FederationStrategy(run, Path("unused"))), grid


def roster(*infos: tuple[str, Role]) -> dict[str, SiteInfo]:
    return {name: SiteInfo(name, role, 5, 5) for name, role in infos}


PAIR = roster(("a", Role.LABELED), ("b", Role.UNLABELED))


def downloads(*sites: str, stage: str = "train") -> list[Download]:
    return [Download("r", 2, stage, name, 4, dict(WEIGHTS), trains=("shared",)) for name in sites]
