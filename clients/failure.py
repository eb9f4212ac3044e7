"""What a failing site tells: everything to its own log, little to the coordinator.

Texts of exceptions hold paths, file names and names of cases. None of them may leave a site.
"""

from __future__ import annotations

import re

from fedssl.errors import DataError, FedsslError

__all__ = ["public_reason"]

LIMIT = 400

# An apostrophe within a word opens and closes nothing; a name may hold one.
_QUOTED = re.compile(r"(?<!\w)'[^\n]*'(?!\w)|\"[^\"\n]*\"|`[^`\n]*`")
_ABSOLUTE = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\~][^\n]*")
_RELATIVE = re.compile(r"[^\s'\"]*[/\\][^\s'\"]*")
_FILE = re.compile(r"\b[\w.+-]+\.(?=[a-z0-9]*[a-z])[a-z0-9]{1,5}\b(?!\()", re.IGNORECASE)


def public_reason(error: Exception) -> str:
    """Return the class of an error, and as much of its message as can name no file or case.

    Removed are absolute paths to the end of their line (a folder's name may hold spaces), words
    with a slash, and names with an extension. Messages about data and of other libraries lose all
    they quote as well, since that is where names of cases stand. At most 400 characters remain.
    """
    text = str(error)
    if not isinstance(error, FedsslError) or isinstance(error, DataError):
        text = _QUOTED.sub("<...>", text)
    for pattern in (_ABSOLUTE, _RELATIVE, _FILE):
        text = pattern.sub("<...>", text)
    short = " ".join(text.split())[:LIMIT]
    return f"{type(error).__name__}: {short} (details are in the site's own log)"
