"""What the ends of fedssl pass to a run: console, tracking, and the report after the last round."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from fedssl.config import RunConfig
from fedssl.coordinator import Progress
from fedssl.progress import ConsoleProgress
from fedssl.report.page import write_report
from fedssl.results import RoundRecord, RunFolder
from fedssl.tracking import TrackedProgress
from fedssl.types import SiteInfo

__all__ = ["ReportedProgress", "run_progress"]

log = logging.getLogger("fedssl")


def run_progress(run: RunConfig, folder: Path, console: Console | None = None) -> Progress:
    """Return a progress that prints, tracks as the key `tracking` says, and writes the report.

    Args:
        run: the run's configuration.
        folder: its run folder.
        console: where to print; by default standard output.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    return ReportedProgress(TrackedProgress(ConsoleProgress(console), run, folder))


class ReportedProgress:
    """A `Progress` that passes everything on and writes `report.html` at the end."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        """Pass on."""
        self._inner.start(run, roster, round_)

    def round_done(self, record: RoundRecord) -> None:
        """Pass on."""
        self._inner.round_done(record)

    def finish(self, folder: RunFolder) -> None:
        """Write the report first, so that it exists when the run is said to be complete."""
        try:
            write_report(folder.path)
        except Exception:
            # The results are written; a page about them must not turn the run into a failed one.
            log.exception("No report; 'fedssl report %s' tries again.", folder.path)
        self._inner.finish(folder)
