"""A restart of the SuperLink in the middle of a push does not end a run.

Flower 1.41 sends an object again when the connection broke, but a SuperLink that had stored it
before it went down refuses it then ("not pending"), and Flower gives the whole message up. Such an
object is there. Should it be missing after all, its site fails to answer, as sites may.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.superlink.grid import http_grid

__all__ = ["accept_repeated_objects"]

log = logging.getLogger("flwr")

PushObject = Callable[[str, bytes], None]

SEAM: Final = "make_push_object_fn_protobuf"
"""Name in Flower's module of what makes the function that pushes one object."""


def accept_repeated_objects() -> None:
    """Let the grid go on when the SuperLink refuses an object; calling it again changes nothing."""
    make: Callable[..., PushObject] = getattr(http_grid, SEAM)
    if getattr(make, "accepts_repeated", False):
        return

    def make_push(*arguments: Any, **options: Any) -> PushObject:
        push = make(*arguments, **options)

        def push_once(object_id: str, content: bytes) -> None:
            try:
                push(object_id, content)
            except ObjectPushError:
                log.warning("The SuperLink has %s already, or lost it.", object_id[:8])

        return push_once

    make_push.accepts_repeated = True  # type: ignore[attr-defined]  # a mark on the function
    setattr(http_grid, SEAM, make_push)
