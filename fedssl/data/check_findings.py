"""What a check of a site's data found: the file, what is wrong with it, and what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fedssl.errors import DataError

__all__ = ["DataFinding", "Level", "bad", "from_error", "heard", "warning"]


class Level(StrEnum):
    """An error keeps the site from training, or makes its results wrong; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class DataFinding:
    """One problem.

    Args:
        level: how bad it is.
        kind: one word, the same for all findings of a sort.
        file: where; the site's folder if it concerns no single file.
        detail: what was found, with numbers.
        remedy: what to do about it.
    """

    level: Level
    kind: str
    file: str
    detail: str
    remedy: str


def bad(kind: str, file: Path | str, detail: str, remedy: str) -> DataFinding:
    """Return an error."""
    return DataFinding(Level.ERROR, kind, str(file), detail, remedy)


def warning(kind: str, file: Path | str, detail: str, remedy: str) -> DataFinding:
    """Return a warning."""
    return DataFinding(Level.WARNING, kind, str(file), detail, remedy)


def from_error(error: DataError, kind: str, files: Sequence[Path], folder: str) -> DataFinding:
    """Return an error's message as a finding.

    A message names its file and ends with its remedy. The sentence of the finding is told apart
    from the remedy where a sentence, or else a clause, ends outside of a file's name.

    Args:
        error: what a reader raised.
        kind: kind of the finding.
        files: the files that it may be about; the first one that it names is the finding's.
        folder: named if it is about none of them.
    """
    text = re.sub(r"^Site '[^']*': ", "", str(error))
    named = [path for path in files if str(path) in text]
    first = min(named, key=lambda path: text.index(str(path)), default=None)
    masked = re.sub("|".join(re.escape(str(p)) for p in named) or r"(?!)", _blank, text)
    split = re.search(r"\. (?=[A-Z])", masked) or re.search(r"[;:] (?=[a-z]+ )", masked)
    end = split.end() if split else len(text)
    detail = text[:end].rstrip(" ;:.")
    denied = "Permission denied" in text
    other = "Ask for access to it" if denied else "Export or copy the file again"
    remedy = text[end:].rstrip(".") or other
    return bad(kind, first or folder, f"{detail}.", f"{remedy[0].upper()}{remedy[1:]}.")


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect the warnings that fedssl logs meanwhile, instead of printing them."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, listener = logging.getLogger("fedssl"), Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        yield lines
    finally:
        log.removeHandler(listener)


def _blank(match: re.Match[str]) -> str:
    return "x" * len(match.group())
