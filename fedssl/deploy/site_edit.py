"""Changes to a site file that keep its comments."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fedssl.errors import ConfigError, FedsslError
from fedssl.federation import load_site_file
from fedssl.memory import write_atomically

__all__ = ["edit_as_mixed"]

_HEADER = re.compile(r"^\s*\[+[^\]]+\]+\s*(#.*)?$")


def edit_as_mixed(path: Path, *, labels: Path, listing: Path) -> None:
    """Give a site file the role `mixed` with these masks; the old text is kept as `<name>.bak`.

    Args:
        path: site file with one `[[site]]` table.
        labels: folder of masks.
        listing: text file with the names of the cases that have one.

    Raises:
        ConfigError: the file is written in a way that cannot be edited; it is left as it was.
    """
    before = path.read_text(encoding="utf-8")
    after = _mixed(before.splitlines(), labels, listing)
    backup = path.with_name(path.name + ".bak")
    backup.write_text(before, encoding="utf-8")
    write_atomically(path, after.encode())
    try:
        spec = load_site_file(path)[1]
        done = spec.role == "mixed" and spec.options.get("labels") == str(labels)
    except FedsslError as error:
        done, reason = False, str(error)
    else:
        reason = "its tables are written in an unusual way"
    if not done:
        write_atomically(path, before.encode())
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
