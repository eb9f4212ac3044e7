"""Digests of files' contents, remembered while size and modification time stay the same.

A deployed site starts a process per message; reading every image again only to name the prepared
copy would cost more than training.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fedssl.errors import DataError

__all__ = ["digest_files"]

_CHUNK = 1 << 20
_SETTLED_SECONDS = 3.0
"""A file younger than this could change again within the resolution of its time stamp."""

_Memo = dict[str, tuple[list[int], str]]


def digest_files(paths: Sequence[Path], memo_dir: Path) -> list[str]:
    """Return the BLAKE2b digest of each file's content.

    Args:
        paths: files.
        memo_dir: folder for what is remembered; what cannot be written there is computed anew.

    Raises:
        DataError: a file cannot be opened.
    """
    names = [str(path.resolve()) for path in paths]
    key = hashlib.blake2b("\n".join(names).encode(errors="surrogateescape"), digest_size=12)
    memo_path = memo_dir / f"{key.hexdigest()}.json"
    memo = _read(memo_path)
    known = dict(memo)
    now = time.time()
    digests: list[str] = []
    fresh: _Memo = {}
    for name, path in zip(names, paths, strict=True):
        stamp, modified = _stamp(path)
        old = known.get(name)
        digest = old[1] if old is not None and old[0] == stamp else _digest(path)
        digests.append(digest)
        known[name] = (stamp, digest)  # many cases may lie in one file
        if now - modified > _SETTLED_SECONDS:
            fresh[name] = (stamp, digest)
    if fresh != memo:
        _write(memo_path, fresh)
    return digests


def _stamp(path: Path) -> tuple[list[int], float]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino], max(
        stat.st_mtime, stat.st_ctime
    )


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from None
    return digest.hexdigest()


def _read(path: Path) -> _Memo:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {name: ([int(n) for n in stamp], str(digest)) for name, (stamp, digest) in rows}
    except (OSError, ValueError, TypeError):
        return {}


def _write(path: Path, memo: _Memo) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError, UnicodeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(list(memo.items())), encoding="utf-8")
        temporary.replace(path)
