"""Checks across cases: the same picture twice, a subject in two places, roles, published counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedssl.data.check_findings import DataFinding, bad, warning
from fedssl.types import Role, Task

__all__ = [
    "Place",
    "check_classes",
    "check_duplicates",
    "check_published",
    "check_role",
    "check_roles",
    "check_subjects",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture was found.

    Args:
        site: its site.
        case: its case.
        subject: whose it is said to be.
        file: image file.
        split: part of a published split, or empty.
        content: digest of the file's bytes, empty where there is no file.
        pixels: digest of the decoded picture, empty where it cannot be read.
    """

    site: str
    case: str
    subject: str
    file: str
    split: str = ""
    content: str = ""
    pixels: str = ""


def check_duplicates(places: Sequence[Place], *, across: bool = False) -> list[DataFinding]:
    """Look for one picture in several cases, by the bytes of the files and by the pixels.

    Two copies under different subjects, or at two sites, can be trained on and tested with at the
    same time, which makes results too good: an error. Copies of one subject only count double.

    Args:
        places: cases of one site or of several.
        across: tell only of copies at different sites.
    """
    found = []
    told: set[frozenset[str]] = set()
    for how, key in (("bytes", _content), ("pixels", _pixels)):
        for group in _groups(places, key):
            members = frozenset(f"{p.site}/{p.case}" for p in group)
            within = len({p.site for p in group}) == 1
            if not any(members <= other for other in told) and not (across and within):
                told.add(members)
                found.append(_duplicate(group, how))
    return found


def check_published(places: Sequence[Place]) -> list[DataFinding]:
    """Look for a subject in several parts of a published split."""
    found = []
    for group in _groups(places, lambda p: (p.site, p.subject)):
        parts = sorted({p.split for p in group if p.split})
        if len(parts) > 1:
            found.append(
                warning(
                    "subject",
                    group[0].file,
                    f"Subject {group[0].subject!r} has cases in the published parts "
                    f"{' and '.join(parts)}.",
                    "All its cases go to the later part, so that none trains while another is "
                    'tested; or set options = { split = "folds" } for the site.',
                )
            )
    return found


def check_subjects(places: Sequence[Place]) -> list[DataFinding]:
    """Look for subjects of one name at several sites."""
    sites_of: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Place] = {}
    for place in places:
        sites_of[place.subject].add(place.site)
        first.setdefault(place.subject, place)
    shared: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for subject, sites in sites_of.items():
        if len(sites) > 1:
            shared[tuple(sorted(sites))].append(subject)
    return [
        warning(
            "subject",
            first[subjects[0]].file,
            f"{len(subjects)} subjects are at the sites {' and '.join(sites)}: "
            f"{', '.join(map(repr, subjects[:3]))}{', ...' if len(subjects) > 3 else ''}.",
            "If they are the same people, keep each at one site: otherwise one site trains on "
            "whom another one tests. If only their names are equal, all is well.",
        )
        for sites, subjects in shared.items()
    ]


def check_roles(sites: Sequence[tuple[Role, str]]) -> list[DataFinding]:
    """Look for somebody to learn from among several sites, by role and folder."""
    if len(sites) < 2 or any(role != Role.UNLABELED for role, _ in sites):
        return []
    detail = f"All {len(sites)} sites have the role 'unlabeled'."
    remedy = "Set the role of those with masks; without any there is nothing to learn from."
    return [bad("role", sites[0][1], detail, remedy)]


def check_role(
    role: Role, labeled: int | str | None, masks: int, subjects: int, folder: str
) -> list[DataFinding]:
    """Compare a site's role with the number of subjects that have masks."""
    if role == Role.UNLABELED:
        return []
    if masks == 0:
        return [
            bad(
                "role",
                folder,
                f"The site has the role {role.value!r}, but none of its images has a mask.",
                "Put masks where its layout looks for them (folders: labels/, under the images' "
                "names; h5: the dataset label, or the one that an option names), or set role = "
                '"unlabeled".',
            )
        ]
    if role == Role.LABELED and masks < subjects:
        return [
            warning(
                "role",
                folder,
                f"The site has the role 'labeled', but {subjects - masks} of {subjects} subjects "
                "have no mask; their images are neither trained on nor tested.",
                'Set role = "mixed" to train on them as well, or look for masks under other names.',
            )
        ]
    if isinstance(labeled, int) and labeled > masks:
        return [
            bad(
                "role",
                folder,
                f"labeled = {labeled}, but only {masks} subjects have masks.",
                f"Give at most {masks}; the subjects of the test split do not count.",
            )
        ]
    return []


def check_classes(voxels: Mapping[str, int], task: Task, folder: str) -> list[DataFinding]:
    """Look for a class that occurs in no mask of a site."""
    absent = [name for name in task.foreground if voxels.get(name, 0) == 0]
    return [
        warning(
            "class",
            folder,
            f"The class {name!r} occurs in no mask.",
            "Look whether [task] classes are in the order of the masks' values, 0, 1, 2, ...",
        )
        for name in absent
    ]


def _content(place: Place) -> str:
    return place.content


def _pixels(place: Place) -> str:
    return place.pixels


def _groups(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Return the groups of at least two items with the same key; an empty key groups nothing."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        if found := key(item):
            groups[found].append(item)
    return [group for group in groups.values() if len(group) > 1]


def _duplicate(group: Sequence[Place], how: str) -> DataFinding:
    what = "The same file" if how == "bytes" else "The same picture"
    others = ", ".join(p.file for p in group[1:4]) + (", ..." if len(group) > 4 else "")
    detail = f"{what} ({how} are equal) is also {others}."
    if len({(p.site, p.subject) for p in group}) == 1:
        remedy = "Both are of one subject, which counts double; remove all but one."
        return warning("duplicate", group[0].file, detail, remedy)
    remedy = (
        "Remove all but one, or give them one subject in index.csv: otherwise one can be trained "
        "on while the other one is tested."
    )
    return bad("duplicate", group[0].file, detail, remedy)
