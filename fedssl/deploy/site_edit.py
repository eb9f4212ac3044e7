"""Changes to a site file that keep its comments."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from pathlib import Path

from fedssl.errors import ConfigError, FedsslError
from fedssl.federation import load_site_file
from fedssl.memory import write_atomically

__all__ = ["edit_as_mixed"]

_HEADER = re.compile(r"^\s*\[+[^\]]+\]+\s*(#.*)?$")


def edit_as_mixed(
    path: Path, *, labels: Path, listing: Path, spare: Path, out: Path | None = None
) -> Path:
    """Give a site file the role `mixed` with these masks.

    It is changed where it is, and the old text is kept as `<name>.bak`. One that cannot be written,
    such as a file that is mounted read-only into a container, is left alone; the new text goes to
    `spare`, for someone to put it in the old one's place.

    Args:
        path: site file with one `[[site]]` table.
        labels: folder of masks.
        listing: text file with the names of the cases that have one.
        spare: where the new text goes if `path` cannot be written.
        out: where the new text goes in any case; None: into `path`.

    Returns:
        The file that was written.

    Raises:
        ConfigError: the file is written in a way that cannot be edited; it is left as it was.
    """
    before = path.read_text(encoding="utf-8")
    after = _mixed(before.splitlines(), labels, listing)
    _require_mixed(after, path, labels, listing)
    if out is not None:
        return _written(out, after)
    try:
        write_atomically(_unused(path), before.encode())
        write_atomically(path, after.encode())
    except OSError:
        return _written(spare, after)
    return path


def _unused(path: Path) -> Path:
    """Return the name of a copy that is not there yet: the first one holds the oldest text."""
    names = itertools.chain([".bak"], (f".bak{number}" for number in itertools.count(2)))
    copies = (path.with_name(path.name + name) for name in names)
    return next(copy for copy in copies if not copy.exists())


def _written(path: Path, text: str) -> Path:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(
            f"The new site file {path} cannot be written: {error.strerror or error}."
        ) from None
    return path


def _require_mixed(text: str, path: Path, labels: Path, listing: Path) -> None:
    """Read the new text as a site file, before anything is changed."""
    reason = "its tables are written in an unusual way"
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "site.toml"
        trial.write_text(text, encoding="utf-8")
        try:
            spec = load_site_file(trial)[1]
            done = spec.role == "mixed" and spec.options.get("labels") == str(labels)
        except FedsslError as error:
            done, reason = False, str(error)
    if not done:
        raise ConfigError(
            f'{path} cannot be edited ({reason}). Set role = "mixed", '
            f"labeled = {json.dumps(str(listing))} and labels = {json.dumps(str(labels))} under "
            "[site.options] by hand."
        )


def _mixed(lines: list[str], labels: Path, listing: Path) -> str:
    site = _section(lines, r"\[\[site\]\]")
    body = [line for line in lines[site[0] + 1 : site[1]] if not _sets(line, "role", "labeled")]
    while body and not body[-1].strip():
        body.pop()
    body += ['role = "mixed"', f"labeled = {json.dumps(str(listing))}"]
    options = _section(lines, r"\[site\.options\]")
    rest = lines[options[0] + 1 : options[1]] if options[0] >= 0 else []
    kept = [line for line in rest if not _sets(line, "labels")]
    while kept and not kept[-1].strip():
        kept.pop()
    head = lines[: site[0] + 1]
    between = lines[site[1] : options[0]] if options[0] >= site[1] else []
    tail = lines[max(site[1], options[1]) :]
    table = ["[site.options]", f"labels = {json.dumps(str(labels))}", *kept, ""]
    return "\n".join([*head, *body, *between, *table, *tail]) + "\n"


def _section(lines: list[str], header: str) -> tuple[int, int]:
    """Return the line of a table's header and the line after its end; (-1, -1) if it is missing."""
    starts = [i for i, line in enumerate(lines) if re.match(rf"\s*{header}", line)]
    if not starts:
        return -1, -1
    end = next((i for i in range(starts[0] + 1, len(lines)) if _HEADER.match(lines[i])), len(lines))
    # Comments right above the next table belong to that one.
    while end > starts[0] + 1 and lines[end - 1].lstrip().startswith("#") and end < len(lines):
        end -= 1
    return starts[0], end


def _sets(line: str, *keys: str) -> bool:
    return any(re.match(rf"\s*#?\s*{key}\s*=", line) for key in keys)
