"""The ServerApp: checks the run's configuration and starts the federation."""

from __future__ import annotations

import logging
import sys

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation; whatever is raised makes Flower's run 'finished:failed'."""
    from fedssl.errors import FedsslError

    try:
        _main(grid, context)
    except FedsslError:
        # Flower logs the stack of what it catches; a deliberate error has said what is wrong, and
        # this process has nothing left to do but to report it.
        sys.tracebacklimit = 0
        raise


def _main(grid: Grid, context: Context) -> None:
    from fedssl.methods import load_config
    from fedssl.placement import require_absolute_paths, run_folder
    from server.pushing import accept_repeated_objects
    from server.strategy import FederationStrategy

    _show_library_log()
    run = load_config(context.run_config)
    require_absolute_paths(run)
    accept_repeated_objects()
    strategy = FederationStrategy(run, run_folder(run, context.run_id))
    strategy.start(grid, ArrayRecord(), num_rounds=run.rounds, timeout=run.round_timeout)


def _show_library_log() -> None:
    """Let the library's messages go where Flower's go: into the run's log."""
    ours, theirs = logging.getLogger("fedssl"), logging.getLogger("flwr")
    for handler in theirs.handlers:
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
