"""A bar for work that takes long; on a terminal only, and never on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Tell", "bars"]

Tell = Callable[[str, int, int], None]
"""Is told a site, the cases that are done, and how many there are."""


@contextmanager
def bars(verb: str) -> Iterator[Tell]:
    """Yield what draws one bar per site."""
    columns = (
        TextColumn(verb + " {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        drawn: dict[str, int] = {}

        def tell(site: str, done: int, total: int) -> None:
            if site not in drawn:
                drawn[site] = int(progress.add_task(site, total=total))
            for task in progress.tasks:
                if task.id == drawn[site]:
                    progress.update(task.id, completed=done, total=total)

        yield tell
