"""What broken files are filled with, and how a refusal is told from a reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fedssl.errors import DataError

Read = TypeVar("Read")

NOT_IMAGES = {
    "noise": np.random.default_rng(4).bytes(2000),
    "zeros": bytes(2000),
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}
"""Content that people find under the name of an image."""


def read_or_refused(read: Callable[[Path], Read], path: Path, named: str = "") -> Read | None:
    """Return what was read, or None after a refusal that names the file."""
    try:
        return read(path)
    except DataError as error:
        message = str(error)
    assert (named or str(path)) in message
    return None
