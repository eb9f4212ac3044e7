"""Files that only their owner may read, and that are never overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fedssl.errors import DataError

__all__ = ["make_private_folder", "require_absent", "write_new", "write_private"]


def make_private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may open (0700); one that exists is left as it is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=0o700)
    return folder


def require_absent(paths: Iterable[Path]) -> None:
    """Refuse to go on before anything is made, where a file would have to be overwritten.

    Raises:
        DataError: one of the files exists already.
    """
    for path in paths:
        if path.exists():
            raise _taken(path)


def write_private(path: Path, content: bytes) -> Path:
    """Write a new file with mode 0600.

    Raises:
        DataError: the file exists already.
    """
    return _write(path, content, 0o600)


def write_new(path: Path, content: str | bytes) -> Path:
    """Write a new file with mode 0644.

    Raises:
        DataError: the file exists already.
    """
    return _write(path, content.encode() if isinstance(content, str) else content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> Path:
    try:
        # Mode and exclusiveness at creation: at no moment can others read a private file.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        path.unlink()  # a part of a key would stand in the way of a new one
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path


def _taken(path: Path) -> DataError:
    return DataError(
        f"{path} exists already and is not overwritten. Give another place, or move the file away; "
        "of a key or certificate, other machines may hold the counterpart."
    )
