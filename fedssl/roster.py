"""Who may take part: what a site says of itself, against what the run needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from fedssl.config import RunConfig
from fedssl.data.prepare import PreparePlan
from fedssl.errors import FederationError
from fedssl.fingerprint import code_fingerprint
from fedssl.types import Output, Role, SiteInfo, Task, Upload

__all__ = [
    "common_task",
    "counts_as_labeled",
    "misfit",
    "plan_text",
    "shortage",
    "site_info",
    "task_text",
    "told_versions",
]

_SHARED = ("classes", "mode", "output", "channels")
"""What of a task all sites have in common; its name is free text."""


def counts_as_labeled(info: SiteInfo) -> bool:
    """Whether a site belongs to the labeled group; mixed sites do, by their labeled cases."""
    return info.role != Role.UNLABELED


def site_info(upload: Upload) -> SiteInfo:
    """Return what the coordinator keeps of a site's description."""
    return SiteInfo(upload.site, upload.role, upload.num_examples, upload.num_labeled)


def task_text(task: Task) -> str:
    """Return a task as it travels."""
    return json.dumps(asdict(task), sort_keys=True)


def plan_text(run: RunConfig, task: Task) -> str:
    """Return what is done to every image before training, as it travels."""
    return json.dumps(asdict(PreparePlan.from_run(run, task)), sort_keys=True)


def told_versions(upload: Upload) -> dict[str, str]:
    """Return the versions that a site told; empty where they cannot be read."""
    try:
        found = json.loads(upload.info["versions"])
        return {str(name): str(version) for name, version in found.items()}
    except (KeyError, ValueError, AttributeError):
        return {}


def common_task(described: Sequence[Upload]) -> Task:
    """Return the task of most labeled sites; of all sites, where none is labeled.

    Who brings masks decides what is segmented; between equally many, the first by name decides.

    Raises:
        FederationError: there is no site, or none whose description can be read.
    """
    tasks = {u.site: task for u in described if (task := _task(u)) is not None}
    voters = sorted(
        u.site for u in described if u.site in tasks and counts_as_labeled(site_info(u))
    )
    votes = [tasks[site] for site in voters or sorted(tasks)]
    if not votes:
        raise FederationError("No site answered the describe query; nothing can be trained.")
    count = Counter(_meaning(task) for task in votes)
    best = max(count.values())
    return next(task for task in votes if count[_meaning(task)] == best)


def misfit(upload: Upload, task: Task, run: RunConfig, version: str) -> str:
    """Return why a site cannot take part, with its value and the coordinator's; '' if it can.

    Args:
        upload: the site's reply to the `describe` query.
        task: what the run segments.
        run: the run's configuration.
        version: the coordinator's version of fedssl.
    """
    theirs = _task(upload)
    if theirs is None:
        return f"Site {upload.site!r} describes itself in a way that cannot be read."
    found = (
        _other_code(upload, version)
        or _other_task(theirs, task)
        or _other_plan(upload, plan_text(run, task))
    )
    return f"Site {upload.site!r} {found}" if found else ""


def shortage(infos: Iterable[SiteInfo], run: RunConfig, *, unlabeled_train: bool) -> str:
    """Return which role is short of sites, or '' when enough of each are there.

    Args:
        infos: who is there.
        run: its `min-labeled` and `min-unlabeled` are read.
        unlabeled_train: whether the method trains at unlabeled sites.
    """
    grouped = [counts_as_labeled(info) for info in infos]
    labeled, unlabeled = grouped.count(True), grouped.count(False)
    if labeled < run.min_labeled:
        return f"{labeled} labeled or mixed sites, but min-labeled = {run.min_labeled}"
    if unlabeled_train and unlabeled < run.min_unlabeled:
        return f"{unlabeled} unlabeled sites, but min-unlabeled = {run.min_unlabeled}"
    return ""


def _other_code(upload: Upload, version: str) -> str:
    theirs = told_versions(upload).get("fedssl", "an unknown version")
    if theirs != version:
        return (
            f"runs fedssl {theirs}, the coordinator {version}. Install the coordinator's version "
            "at the site, or take its image."
        )
    fingerprint = upload.info.get("fingerprint", "none")
    if fingerprint != code_fingerprint():
        return (
            f"runs other code: fingerprint {fingerprint}, the coordinator has "
            f"{code_fingerprint()}. Install the same fedssl on both; under `flwr run`, start the "
            "SuperLink outside any source checkout."
        )
    return ""


def _other_task(theirs: Task, ours: Task) -> str:
    there, here = _shared(theirs), _shared(ours)
    differing = [f"{k} = {there[k]}, the run {here[k]}" for k in _SHARED if there[k] != here[k]]
    if not differing:
        return ""
    return f"has {'; '.join(differing)}. All sites need the same [task]; only its name is free."


def _other_plan(upload: Upload, ours: str) -> str:
    theirs = upload.info.get("plan", "none")
    if theirs == ours:
        return ""
    return f"prepares its images by the plan {theirs}, the run by {ours}."


def _shared(task: Task) -> Mapping[str, object]:
    fields = json.loads(task_text(task))
    return {key: fields[key] for key in _SHARED}


def _meaning(task: Task) -> str:
    return json.dumps(_shared(task), sort_keys=True)


def _task(upload: Upload) -> Task | None:
    try:
        fields = json.loads(upload.info["task"])
        return Task(
            str(fields["name"]),
            tuple(str(name) for name in fields["classes"]),
            str(fields["mode"]),
            Output(fields["output"]),
            int(fields["channels"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
