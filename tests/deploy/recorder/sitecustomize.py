"""Writes down the digest of every payload that Flower sends and receives, in every process.

Python imports this at its start where the folder stands in PYTHONPATH; what is recorded goes to
the folder that FEDSSL_TEST_RECORD names. Flower's functions work as before.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = os.environ.get("FEDSSL_TEST_RECORD", "")


def digest(content: Any) -> tuple[str, int]:
    """Return the sha256 over all records of a message, and how many bytes its arrays have."""
    found, size = hashlib.sha256(), 0
    for name in sorted(content):
        record = content[name]
        found.update(f"{name} {type(record).__name__}\0".encode())
        for key in record:
            value = record[key]
            if hasattr(value, "stype"):
                found.update(f"{key} {value.dtype} {value.shape} {value.stype}\0".encode())
                found.update(value.data)
                size += len(value.data)
            else:
                found.update(f"{key} {value!r}\0".encode())
    return found.hexdigest(), size


def note(way: str, message: Any, node: int, of: str) -> None:
    """Append one line to this process's record."""
    if not message.has_content():
        return
    sha256, size = digest(message.content)
    line = {"way": way, "node": node, "message": of, "sha256": sha256, "bytes": size}
    with (Path(FOLDER) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def watch_coordinator(module: ModuleType) -> None:
    """Record at the ServerApp's way to the nodes."""
    grid = module.HttpGrid
    push, pull = grid.push_messages, grid.pull_messages

    @functools.wraps(push)
    def push_messages(self: Any, messages: Iterable[Any]) -> Any:
        sent = list(messages)
        identifiers = list(push(self, sent))
        for message, identifier in zip(sent, identifiers, strict=True):
            note("down, sent", message, message.metadata.dst_node_id, identifier)
        return identifiers

    @functools.wraps(pull)
    def pull_messages(self: Any, message_ids: Iterable[str]) -> Any:
        replies = list(pull(self, message_ids))
        for reply in replies:
            about = reply.metadata
            note("up, received", reply, about.src_node_id, about.reply_to_message_id)
        return replies

    grid.push_messages, grid.pull_messages = push_messages, pull_messages


def watch_site(module: ModuleType) -> None:
    """Record at the ClientApp's process."""
    pull: Callable[[Any], Any] = module.pull_task_input
    push: Callable[[Any, Any, Any], None] = module.push_message

    def pull_task_input(client: Any) -> Any:
        message, context, run, fab = pull(client)
        note("down, received", message, context.node_id, message.metadata.message_id)
        return message, context, run, fab

    def push_message(client: Any, message: Any, context: Any) -> None:
        note("up, sent", message, context.node_id, message.metadata.reply_to_message_id)
        push(client, message, context)

    module.pull_task_input = pull_task_input  # type: ignore[attr-defined]  # Flower's module, wrapped
    module.push_message = push_message  # type: ignore[attr-defined]  # Flower's module, wrapped


WATCHED = {
    "flwr.superlink.grid.http_grid": watch_coordinator,
    "flwr.supernode.runtime.run_clientapp": watch_site,
}


class Watcher(importlib.abc.MetaPathFinder):
    """Finds the watched modules where everybody does, and wraps them once they are loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec, with a step added at its end."""
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in WATCHED else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            WATCHED[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # wrapped
        return spec


if FOLDER:
    sys.meta_path.insert(0, Watcher())
