"""Everything that fedssl raises on purpose.

    FedsslError
    |-- ConfigError        a key, value or combination in the configuration
    |-- DataError          a file or folder of images, masks or splits
    |-- FederationError    the sites and the coordinator do not fit together
    |   `-- UploadError    one upload is refused (shape, dtype, name, non-finite value)
    |-- CheckpointError    a run cannot be saved or resumed
    |-- ExportError        a network cannot be exported, or would not stay the same
    `-- TrainingError      a site's training cannot go on

A message says what is wrong, which file or key, what was given, and what would work.
"""

from __future__ import annotations

import errno
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExportError",
    "FederationError",
    "FedsslError",
    "TrainingError",
    "UploadError",
    "did_you_mean",
    "told",
]

_REMEDIES: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some room, then try again."),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Ask for access, or give a place that belongs to the user who runs this.",
    ),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "It is in the way of a folder; give another."),
    errno.EISDIR: "Give a file.",
    errno.ENOENT: "Give another path.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.EIO: "Look after the disk, then try again.",
}


class FedsslError(Exception):
    """Base of every deliberate error; the command line prints it without a traceback."""


class ConfigError(FedsslError):
    """A key, a value or a combination of keys is wrong."""


class DataError(FedsslError):
    """A file or folder cannot serve as data; the message names it."""


class FederationError(FedsslError):
    """Sites and coordinator disagree, or too few sites take part."""


class UploadError(FederationError):
    """One site's upload is refused; the message names the site and the field."""


class CheckpointError(FedsslError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class ExportError(FedsslError):
    """A network cannot be exported, or the export differs from it."""


class TrainingError(FedsslError):
    """Training at a site cannot go on, e.g. the loss is not finite."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a ' Did you mean ...?' sentence, or '' when nothing is close."""
    close = get_close_matches(given, list(known), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def told(error: FedsslError | OSError) -> str:
    """Return the message that a user gets for an error, or '' if it is a fault of ours.

    Of the system's errors those are told that the disk or its owner has to mend; all else shows
    itself with a traceback.
    """
    if isinstance(error, FedsslError):
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, "")
    if not remedy:
        return ""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}. {remedy}"
