"""A site's memory: optimizer state, teachers, private parts; stamped files survive rounds."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedssl.errors import TrainingError
from fedssl.functional.averaging import all_finite, cpu_copy, weights_sha256
from fedssl.types import Arrays

__all__ = ["FileMemory", "split_token", "write_atomically"]

log = logging.getLogger("fedssl")

_STAMP = re.compile(r"\.r(\d{6})\.s(\d{8})\.safetensors$")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a failing write names no file
        raise


def split_token(token: str) -> tuple[str, int]:
    """Return the name of a run and the number of the attempt at it."""
    run, _, attempt = token.partition(".")
    return run, int(attempt) if attempt.isdigit() else 0


class FileMemory:
    """Named arrays under a folder, each file stamped with the round and step that wrote it.

    `load` returns what was saved before the current step. A stage that is repeated after a crash
    therefore starts from what it started from the first time, and repeats exactly. Files of
    earlier rounds are removed but for the newest, which is all that a resumed round needs.

    A file also says which run it belongs to, and the digest of what it holds. One that is damaged,
    was changed, or belongs to another run is named in the log and not used.

    Args:
        folder: where the files are.
        round_: stamp of what is saved.
        step: stamp of what is saved; what is loaded is older.
        run: name of the run; empty: files of any run are read.
    """

    def __init__(self, folder: Path, round_: int, step: int, run: str = "") -> None:
        self._folder = folder
        self._round = round_
        self._step = step
        self._run = run

    def load(self, name: str) -> Arrays | None:
        """Return what was last saved under `name` before this step, or None."""
        earlier = [path for step, _, path in self._versions(name) if step < self._step]
        return self._checked(earlier[-1]) if earlier else None

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep `arrays` under `name`, atomically.

        What is not finite is not kept: it would spoil every later round of this site, and what was
        kept before still serves.

        Raises:
            TrainingError: they cannot be written.
        """
        if not all_finite(arrays):
            log.warning(
                "The state %r of round %d is not finite, so not kept.", name, self._round + 1
            )
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.r{self._round:06d}.s{self._step:08d}.safetensors"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        content = cpu_copy(arrays)
        stamps = {"run": self._run, "round": str(self._round), "step": str(self._step)}
        try:
            save_file(content, temporary, {**stamps, "sha256": weights_sha256(content)})
        except SafetensorError as error:
            temporary.unlink(missing_ok=True)
            raise TrainingError(f"The state {path} cannot be written: {error}.") from None
        temporary.replace(path)
        previous = [p for _, round_, p in self._versions(name) if round_ < self._round]
        for old in previous[:-1]:
            old.unlink(missing_ok=True)

    def _checked(self, path: Path) -> Arrays | None:
        """Return what a file holds, or None, with the reason in the log."""
        try:
            with safe_open(path, "pt") as file:
                stamps = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping and has no __iter__
        except (OSError, SafetensorError) as error:
            _not_used(path, f"it is damaged: {error}")
            return None
        if self._run and stamps.get("run") != self._run:
            _not_used(path, f"it is of the run {stamps.get('run')}, not of {self._run}")
            return None
        if stamps.get("sha256") != (found := weights_sha256(arrays)):
            _not_used(path, f"its digest is {found}, but {stamps.get('sha256')} was written")
            return None
        return arrays

    def _versions(self, name: str) -> list[tuple[int, int, Path]]:
        found = []
        for path in self._folder.glob(f"{name}.r*.safetensors"):
            match = _STAMP.search(path.name)
            if match and path.name[: match.start()] == name:
                found.append((int(match[2]), int(match[1]), path))
        return sorted(found)


def _not_used(path: Path, reason: str) -> None:
    log.error("The state in %s is not used, the site goes on without it: %s.", path, reason)
