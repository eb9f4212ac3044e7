"""What a check found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "bad", "good", "skipped", "warning"]


class Level(StrEnum):
    """How a check went; only `fail` keeps a site from taking part."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Args:
        check: short name of the check.
        level: how it went.
        detail: what was found, with numbers.
        remedy: what to do; empty when there is nothing to do.
    """

    check: str
    level: Level
    detail: str
    remedy: str = ""


def good(check: str, detail: str) -> Finding:
    """Return a passed check."""
    return Finding(check, Level.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """Return something that works but may not for long."""
    return Finding(check, Level.WARN, detail, remedy)


def bad(check: str, detail: str, remedy: str) -> Finding:
    """Return something that keeps the site from taking part."""
    return Finding(check, Level.FAIL, detail, remedy)


def skipped(check: str, detail: str) -> Finding:
    """Return a check that could not be made, because an earlier one failed."""
    return Finding(check, Level.SKIP, detail)
