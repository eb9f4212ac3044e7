"""A site's memory: optimizer state, teachers, private parts; stamped files survive rounds."""

from __future__ import annotations

import os
import re
from pathlib import Path

from safetensors.torch import load_file, save_file

from fedssl.functional.averaging import cpu_copy
from fedssl.types import Arrays

__all__ = ["FileMemory", "write_atomically"]

_STAMP = re.compile(r"\.r(\d{6})\.s(\d{8})\.safetensors$")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class FileMemory:
    """Named arrays under a folder, each file stamped with the round and step that wrote it.

    `load` returns what was saved before the current step. A stage that is repeated after a crash
    therefore starts from what it started from the first time, and repeats exactly. Files of
    earlier rounds are removed but for the newest, which is all that a resumed round needs.
    """

    def __init__(self, folder: Path, round_: int, step: int) -> None:
        self._folder = folder
        self._round = round_
        self._step = step

    def load(self, name: str) -> Arrays | None:
        """Return what was last saved under `name` before this step, or None."""
        earlier = [path for step, _, path in self._versions(name) if step < self._step]
        return load_file(earlier[-1]) if earlier else None

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep `arrays` under `name`, atomically."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.r{self._round:06d}.s{self._step:08d}.safetensors"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        save_file(cpu_copy(arrays), temporary)
        temporary.replace(path)
        previous = [p for _, round_, p in self._versions(name) if round_ < self._round]
        for old in previous[:-1]:
            old.unlink(missing_ok=True)

    def _versions(self, name: str) -> list[tuple[int, int, Path]]:
        found = []
        for path in self._folder.glob(f"{name}.r*.safetensors"):
            match = _STAMP.search(path.name)
            if match and path.name[: match.start()] == name:
                found.append((int(match[2]), int(match[1]), path))
        return sorted(found)
