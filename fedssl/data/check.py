"""Reading everything that a site has, once, and telling every problem at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fedssl.data.case_files import files_behind, read_mask
from fedssl.data.check_findings import DataFinding, Level, bad, from_error, heard, warning
from fedssl.data.check_masks import TOLERANCE, check_content, check_headers, check_turned
from fedssl.data.check_sets import (
    Place,
    check_classes,
    check_duplicates,
    check_published,
    check_role,
    check_roles,
    check_subjects,
)
from fedssl.data.facts import CaseFacts, case_facts
from fedssl.data.formats import format_of
from fedssl.data.layouts import LAYOUTS, CaseFile
from fedssl.data.readers import read_image
from fedssl.data.source import CaseSource, FolderSource, open_source
from fedssl.data.splits import labeled_positions
from fedssl.data.summary import Summary, summarise
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Case, Role, Task

if TYPE_CHECKING:
    from fedssl.data.cache import PreparedSite

__all__ = ["Progress", "SiteReport", "check_site", "check_together"]

Progress = Callable[[str, int, int], None]
"""Is told the site, the cases that were read, and how many there are."""


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What a check knows of one site; it stays there.

    Args:
        site: its file's table.
        task: what is segmented.
        facts: of the cases that could be read.
        places: every case, read or not, for comparison with other sites.
        cases: how many there are.
        findings: every problem, errors first.
    """

    site: SiteSpec
    task: Task
    facts: tuple[CaseFacts, ...]
    places: tuple[Place, ...]
    cases: int
    findings: tuple[DataFinding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(f.level == Level.ERROR for f in self.findings)

    def summary(self) -> Summary:
        """Return what may leave the site.

        Raises:
            DataError: no image could be read.
        """
        return summarise(self.facts, self.task, Counter(f.kind for f in self.findings))


def check_site(
    site: SiteSpec,
    task: Task,
    *,
    tolerance: float = TOLERANCE,
    progress: Progress = lambda site, done, total: None,
) -> SiteReport:
    """Read every file of a site and report every problem; one case at a time is in memory.

    Args:
        site: where the data lie and which role the site has.
        task: what is segmented.
        tolerance: see `TOLERANCE`.
        progress: is told of every case.
    """
    try:
        # a site without masks is to be read all the same; its role is checked below
        with heard() as notes:
            source = open_source(site.model_copy(update={"role": Role.UNLABELED}), task)
    except DataError as error:
        first = from_error(error, "layout", [], site.path)
        findings = (first, *_unreadable(site, str(error), progress))
        return SiteReport(site, task, (), (), 0, findings)
    check = _Check(source, site, task, tolerance)
    check.pass_on(notes)
    return check.run(progress)


def check_together(reports: Sequence[SiteReport]) -> list[DataFinding]:
    """Compare the sites of one machine: roles, one picture or one subject at several of them."""
    places = [place for report in reports for place in report.places]
    roles = check_roles([(report.site.role, report.site.path) for report in reports])
    return check_duplicates(places, across=True) + check_subjects(places) + roles


class _Check:
    """One run over the cases of one site."""

    def __init__(self, source: CaseSource, site: SiteSpec, task: Task, tolerance: float) -> None:
        self.source, self.site, self.task, self.tolerance = source, site, task, tolerance
        self.files = source.files if isinstance(source, FolderSource) else []
        self.facts: list[CaseFacts] = []
        self.findings: list[DataFinding] = []
        self.pixels: dict[str, str] = {}

    def run(self, progress: Progress) -> SiteReport:
        total = len(self.source.cases)
        for index, ref in enumerate(self.source.cases):
            case = self._read(index)
            if case is not None:
                facts = case_facts(case, self.task)
                self.facts.append(facts)
                # pictures of one value are equal whoever they show; they are warned of as such
                self.pixels[ref.name] = "" if facts.low == facts.high else facts.pixels
                self._look_at(index, case, facts)
            progress(self.site.name, index + 1, total)
        places = self._places()
        self._across(places)
        ordered = sorted(self.findings, key=lambda f: f.level != Level.ERROR)
        facts_, found = tuple(self.facts), tuple(dict.fromkeys(ordered))
        return SiteReport(self.site, self.task, facts_, tuple(places), total, found)

    def pass_on(self, notes: Sequence[str]) -> None:
        """Make findings of what the layout has to say, but for counts, which are compared later."""
        for note in notes:
            if " is published with " not in note:
                detail = note.removeprefix(f"Site {self.site.name!r}: ")
                remedy = "Look whether this is on purpose."
                self.findings.append(warning("layout", self.site.path, detail, remedy))

    def _read(self, index: int) -> Case | None:
        """Read a case; where only its mask is broken, the image is still measured."""
        try:
            return self.source.read(index)
        except DataError as error:
            first = error
        if not self.files:
            self._tell(first, "image", None)
            return None
        case = self.files[index]
        image = self._image_only(index, case)
        self._tell(first, "image" if image is None else "mask", case)
        if image is None and case.label is not None:
            try:
                read_mask(case, case.code)
            except DataError as second:
                if str(second) != str(first):
                    self._tell(second, "mask", case)
        return image

    def _image_only(self, index: int, case: CaseFile) -> Case | None:
        self.files[index] = replace(case, label=None, layers=())
        try:
            return self.source.read(index)
        except DataError as error:
            self._tell(error, "image", case)
            return None
        finally:
            self.files[index] = case

    def _tell(self, error: DataError, kind: str, case: CaseFile | None) -> None:
        files = [] if case is None else [*case.label_files, *case.image_files]
        self.findings.append(from_error(error, kind, files, self.site.path))

    def _look_at(self, index: int, case: Case, facts: CaseFacts) -> None:
        files = self.files[index] if self.files else None
        image = files.image if files else self.source.cases[index].name
        if facts.low == facts.high:
            self.findings.append(
                warning(
                    "constant",
                    image,
                    f"The image is constant: every value is {facts.low:g}.",
                    "Export it again, or remove it; nothing can be learned from it.",
                )
            )
        self.findings += check_turned(image)
        if case.label is not None:
            mask = files.label if files and files.label else image
            self.findings += check_content(case.label, self.task, mask)
        if files is not None and files.label is not None and not files.layers:
            self.findings += check_headers(files.image, files.label, self.tolerance)

    def _places(self) -> list[Place]:
        contents = [""] * len(self.source.cases)
        if self.files:
            contents = [_content(f) if self.pixels.get(f.name) else "" for f in self.files]
        files = [str(f.image) for f in self.files] or [ref.name for ref in self.source.cases]
        return [
            Place(
                self.site.name,
                ref.name,
                ref.subject,
                file,
                ref.split,
                content,
                self.pixels.get(ref.name, ""),
            )
            for ref, file, content in zip(self.source.cases, files, contents, strict=True)
        ]

    def _across(self, places: Sequence[Place]) -> None:
        site, cases = self.site, self.source.cases
        masked = len({ref.subject for ref in cases if ref.has_label})
        subjects = len({ref.subject for ref in cases})
        self.findings += check_role(site.role, site.labeled, masked, subjects, site.path)
        self.findings += check_duplicates(places) + check_published(places)
        if masked and self.facts:
            self.findings += check_classes(self.voxels(), self.task, site.path)
        if isinstance(site.labeled, str) and site.role == Role.MIXED:
            self._check_list()
        if site.layout in LAYOUTS:
            for line in LAYOUTS[site.layout].differences(site):
                detail, _, remedy = line.partition(". ")
                self.findings.append(warning("count", site.path, f"{detail}.", remedy))

    def voxels(self) -> dict[str, int]:
        """Return the voxels of each class over all masks."""
        rows = [f.voxels for f in self.facts if f.voxels is not None]
        return {name: sum(row[k] for row in rows) for k, name in enumerate(self.task.classes)}

    def _check_list(self) -> None:
        """Read the list of labeled subjects of a mixed site."""
        try:
            # what is needed of a prepared site are names, subjects and who has a mask
            source = cast("PreparedSite", self.source)
            used = labeled_positions(source, range(len(self.source.cases)), self.site)
        except DataError as error:
            path = Path(self.site.path) / str(self.site.labeled)
            self.findings.append(from_error(error, "role", [path], self.site.path))
            return
        if not used:
            detail = f"None of the cases in the list {self.site.labeled!r} has a mask."
            remedy = "List subjects or cases that have masks."
            self.findings.append(bad("role", self.site.path, detail, remedy))


def _content(case: CaseFile) -> str:
    """Return a digest of the image's files; empty if they cannot be read or hold several cases."""
    if case.image_key:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path in files_behind(case.image_files):
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    except (DataError, OSError):  # told when the case was read
        return ""
    return digest.hexdigest()


def _unreadable(site: SiteSpec, told: str, progress: Progress) -> list[DataFinding]:
    """Look at every file below a folder whose layout could not be made out, but for those told."""
    if not site.path:
        return []
    files = (p for p in Path(site.path).rglob("*") if p.is_file())
    paths = sorted(p for p in files if format_of(p) is not None and str(p) not in told)
    found = []
    for done, path in enumerate(paths, start=1):
        try:
            read_image(path)
        except DataError as error:
            found.append(from_error(error, "image", [path], site.path))
        progress(site.name, done, len(paths))
    return found
