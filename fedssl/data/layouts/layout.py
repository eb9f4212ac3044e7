"""A layout: one function that lists cases, the options it takes, and what its data set publishes.

```python
@layout("montgomery", options={"lungs": "both or left-right"}, published={"images": 138})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    ...
```
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedssl.data.layouts.cases import PARTS, CaseFile, take_shard
from fedssl.data.layouts.subjects import indexed_subjects
from fedssl.errors import DataError, did_you_mean
from fedssl.federation import SiteSpec
from fedssl.types import Role

__all__ = ["COMMON_OPTIONS", "Layout", "choice", "flag", "layout"]

log = logging.getLogger("fedssl")

Counts = Mapping[str, int]

COMMON_OPTIONS: Mapping[str, str] = {
    "label-values": "the masks' value of each class, by comma, e.g. 255,128,0",
    "split": "published (default, where there is one) or folds",
}
"""Options that every layout on disk takes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A named way in which data lie on disk; call it with a site to list its cases.

    Args:
        name: as `layout` names it in a federation file.
        lists: returns a site's cases in any order, without regard to shards.
        options: name and meaning of what it takes besides `COMMON_OPTIONS`.
        published: counts that the data set is known by, per site; keys are `images`, `masks`,
            `subjects`, `train`, `val` and `test`.
    """

    name: str
    lists: Callable[[SiteSpec], list[CaseFile]]
    options: Mapping[str, str]
    published: Callable[[SiteSpec], Counts]

    def __call__(self, spec: SiteSpec) -> list[CaseFile]:
        """Return a site's cases sorted by name, of its shard only.

        An `index.csv` (columns id and subject; site, if it serves several) in the site's folder or
        the one above says whose image each case is, whatever the layout believes.

        The first count other than published is logged; a part of a data set is legal.

        Raises:
            DataError: an unknown option, no cases, two of one name, or what the layout refuses.
        """
        cases = self._all(spec)
        lines = self.differences(spec, cases)
        if lines:
            more = f" {len(lines) - 1} more of its counts differ." if lines[1:] else ""
            log.warning(lines[0] + more)
        if spec.options.get("split") == "folds":
            cases = [replace(case, split="") for case in cases]
        return take_shard(cases, spec.shard, spec.name)

    def differences(self, spec: SiteSpec, cases: Sequence[CaseFile] | None = None) -> list[str]:
        """Return a sentence for each published count that a site's folder does not have.

        Masks are not counted where the site's role needs none.
        """
        found = _counts(self._all(spec) if cases is None else cases)
        return [
            f"Site {spec.name!r}: {self.name} is published with {count} {what}, {found[what]} are "
            f"in {spec.path}. Look whether files are missing, if this is not on purpose."
            for what, count in self.published(spec).items()
            if found[what] != count and (what != "masks" or spec.role != Role.UNLABELED)
        ]

    def _all(self, spec: SiteSpec) -> list[CaseFile]:
        self._check_options(spec)
        cases = sorted(self.lists(spec), key=lambda case: case.name)
        if not cases:
            raise DataError(f"Site {spec.name!r}: {spec.path} holds no images of {self.name}.")
        cases = _with_indexed_subjects(cases, spec)
        twice = [name for name, n in Counter(case.name for case in cases).items() if n > 1]
        if twice:
            raise DataError(
                f"Site {spec.name!r}: {spec.path} holds two cases of the name {twice[0]!r}; keep "
                "one of them or rename the other."
            )
        return cases

    def _check_options(self, spec: SiteSpec) -> None:
        known = {**self.options, **COMMON_OPTIONS}
        for name in spec.options:
            if name not in known:
                listed = "; ".join(f"{option}: {meaning}" for option, meaning in known.items())
                raise DataError(
                    f"Site {spec.name!r}: the layout {self.name!r} has no option {name!r}."
                    f"{did_you_mean(name, known)} Its options: {listed}."
                )
        choice(spec, "split", ("published", "folds"), "published")


def layout(
    name: str,
    *,
    options: Mapping[str, str] | None = None,
    published: Counts | Callable[[SiteSpec], Counts] | None = None,
) -> Callable[[Callable[[SiteSpec], list[CaseFile]]], Layout]:
    """Make a layout of the function that lists its cases; the arguments are those of `Layout`."""
    counts = published if callable(published) else lambda _: published or {}

    def decorate(lists: Callable[[SiteSpec], list[CaseFile]]) -> Layout:
        return Layout(name, lists, options or {}, counts)

    return decorate


def choice(spec: SiteSpec, option: str, known: Sequence[str], default: str) -> str:
    """Return an option's value, which has to be one of those known.

    Raises:
        DataError: it is another.
    """
    given = str(spec.options.get(option, default))
    if given not in known:
        raise DataError(
            f"Site {spec.name!r}: option {option} = {given!r} is unknown."
            f"{did_you_mean(given, known)} Known: {', '.join(known)}."
        )
    return given


def flag(spec: SiteSpec, option: str) -> bool:
    """Return an option that is true or false; false without it.

    Raises:
        DataError: it is something else.
    """
    given = spec.options.get(option, False)
    if not isinstance(given, bool):
        raise DataError(f"Site {spec.name!r}: option {option} = {given!r}; write true or false.")
    return given


def _with_indexed_subjects(cases: list[CaseFile], spec: SiteSpec) -> list[CaseFile]:
    subjects = indexed_subjects(Path(spec.path), [case.name for case in cases], spec.name)
    return [replace(case, subject=subjects.get(case.name, case.subject)) for case in cases]


def _counts(cases: Sequence[CaseFile]) -> dict[str, int]:
    parts = Counter(case.split for case in cases)
    return {
        "images": len(cases),
        "masks": sum(case.label is not None for case in cases),
        "subjects": len({case.subject for case in cases}),
        **{part: parts[part] for part in PARTS},
    }
