"""Who trains and who is tested: by subject, the same wherever and whenever it is computed."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from fedssl.config import SplitConfig
from fedssl.errors import DataError, did_you_mean
from fedssl.federation import SiteSpec
from fedssl.types import Role

if TYPE_CHECKING:
    from fedssl.data.prepare import PreparedSite

__all__ = ["Split", "labeled_positions", "make_split", "read_splits", "write_splits"]

_PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of a site's cases; every case is in one of the three, ascending."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def make_split(
    subjects: Sequence[str],
    split: SplitConfig,
    site: str,
    published: Sequence[str] = (),
) -> Split:
    """Split a site's cases by subject.

    The order of the subjects is that of a hash of (seed, site, subject). Every `folds`-th of them,
    beginning with the `fold`-th, is tested; with fewer subjects than folds one is left out at a
    time. Of the rest a share is for validation; at least one subject trains.

    A split that the data set publishes takes the place of the folds. A subject of whom it tests one
    case is tested with all, so that none is on both sides; without published validation cases a
    share of the training subjects validates.

    Args:
        subjects: subject of each case.
        split: seed, folds and shares.
        site: the site's name.
        published: `train`, `val`, `test` or empty (it trains) for each case, if there is such a
            split.

    Raises:
        DataError: a fold is asked for beside a published split, or nobody is left to train.
    """
    ranked = _ranked(set(subjects), f"{split.seed}/{site}")
    if any(published):
        parts = _published(subjects, published, ranked, split, site)
    else:
        folds = min(split.folds, len(ranked))
        test = set(ranked[split.fold % folds :: folds]) if folds > 1 else set()
        parts = (*_with_validation([s for s in ranked if s not in test], split), test)
    return Split(*(tuple(i for i, s in enumerate(subjects) if s in part) for part in parts))


def _with_validation(rest: list[str], split: SplitConfig) -> tuple[set[str], set[str]]:
    """Return who trains and who validates."""
    count = min(ceil(round(split.val_fraction * len(rest), 9)), len(rest) - 1) if rest else 0
    return set(rest[count:]), set(rest[:count])


def _published(
    subjects: Sequence[str],
    published: Sequence[str],
    ranked: list[str],
    split: SplitConfig,
    site: str,
) -> tuple[set[str], set[str], set[str]]:
    remedy = 'To split by folds instead, give the site options = { split = "folds" }.'
    if split.fold:
        raise DataError(
            f"Site {site!r}: split.fold = {split.fold}, but its data come with a published split, "
            f"which is used. {remedy}"
        )
    test = {s for s, part in zip(subjects, published, strict=True) if part == "test"}
    val = {s for s, part in zip(subjects, published, strict=True) if part == "val"} - test
    train = set(ranked) - test - val
    if not val:
        train, val = _with_validation([s for s in ranked if s in train], split)
    if not train:
        raise DataError(
            f"Site {site!r}: every subject has a case in the published validation or test split, "
            f"so nobody is left to train. {remedy}"
        )
    return train, val, test


def labeled_positions(
    prepared: PreparedSite, train: Sequence[int], spec: SiteSpec
) -> tuple[int, ...]:
    """Return the training cases whose masks may be used: what the site's role allows.

    At a mixed site `labeled` is a number of subjects (chosen by a hash of their names), or a text
    file with one subject or case per line (relative to the site's folder).

    Raises:
        DataError: the list file is missing or names nobody, or there are fewer subjects with masks.
    """
    if spec.role == Role.UNLABELED:
        return ()
    cases = prepared.cases
    masked = [i for i in train if cases[i].has_label]
    if spec.role == Role.LABELED or spec.labeled is None:
        return tuple(masked)
    if isinstance(spec.labeled, str):
        names = _listed(spec, {n for c in cases for n in (c.name, c.subject)})
        return tuple(i for i in masked if cases[i].name in names or cases[i].subject in names)
    ranked = _ranked({cases[i].subject for i in masked}, f"labeled/{spec.name}")
    if spec.labeled > len(ranked):
        raise DataError(
            f"Site {spec.name!r}: labeled = {spec.labeled}, but its training split has masks of "
            f"only {len(ranked)} subjects. Give at most {len(ranked)}."
        )
    chosen = set(ranked[: spec.labeled])
    return tuple(i for i in masked if cases[i].subject in chosen)


def write_splits(
    path: Path, splits: Mapping[str, Split], names: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Write readable JSON: site -> part -> [{case, subject}]. It names cases: it stays at the site.

    Args:
        path: file to write.
        splits: split of each site.
        names: (case, subject) of each site's cases, by position.
    """
    tables = {
        site: {
            part: [{"case": names[site][i][0], "subject": names[site][i][1]} for i in positions]
            for part, positions in asdict(split).items()
        }
        for site, split in splits.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_splits(path: Path, names: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, Split]:
    """Read what `write_splits` wrote, for the sites in `names`.

    Raises:
        DataError: unreadable, or the cases are not those of the sites.
    """
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
        listed = {
            site: {part: [row["case"] for row in tables[site][part]] for part in _PARTS}
            for site in names
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no split file of these sites: {error!r}.") from None
    return {site: _positions(path, site, listed[site], names[site]) for site in names}


def _positions(
    path: Path, site: str, parts: dict[str, list[str]], names: Sequence[tuple[str, str]]
) -> Split:
    position = {case: i for i, (case, _) in enumerate(names)}
    listed = [case for part in _PARTS for case in parts[part]]
    if sorted(listed) != sorted(position):
        odd = sorted(set(listed) ^ set(position)) or [c for c in listed if listed.count(c) > 1]
        raise DataError(
            f"{path}: the cases of site {site!r} are not those on disk (e.g. {odd[0]!r}). Remove "
            "the file to split anew."
        )
    return Split(*(tuple(sorted(position[c] for c in parts[part])) for part in _PARTS))


def _ranked(subjects: set[str], salt: str) -> list[str]:
    def rank(subject: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{salt}/{subject}".encode(), digest_size=16).digest(), subject

    return sorted(subjects, key=rank)


def _listed(spec: SiteSpec, known: set[str]) -> set[str]:
    path = Path(spec.path) / str(spec.labeled)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Site {spec.name!r}: the list {path} of labeled subjects cannot be read: {error}."
        ) from None
    names = {unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip()}
    if not names:
        raise DataError(f"{path} names nobody; write one subject or case of the site per line.")
    unknown = sorted(names - known)
    if unknown:
        raise DataError(
            f"{path} names {unknown[0]!r}, which is no subject or case of site {spec.name!r}."
            f"{did_you_mean(unknown[0], known)}"
        )
    return names
