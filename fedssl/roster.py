"""Who takes part: the sites that answered, checked against each other and the coordinator."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fedssl.config import RunConfig
from fedssl.errors import FederationError
from fedssl.fingerprint import code_fingerprint
from fedssl.types import Output, Role, SiteInfo, Task, Upload

__all__ = ["agreed_task", "build_roster", "counts_as_labeled"]


def counts_as_labeled(info: SiteInfo) -> bool:
    """Whether a site belongs to the labeled group; mixed sites do, by their labeled cases."""
    return info.role != Role.UNLABELED


def agreed_task(described: Sequence[Upload]) -> Task:
    """Return the sites' common task; refuse sites that differ in task or code."""
    if not described:
        raise FederationError("No site answered the describe query; nothing can be trained.")
    first = described[0]
    for upload in described:
        if upload.info["task"] != first.info["task"]:
            raise FederationError(
                f"Sites disagree on the task: {first.site!r} has {first.info['task']}, "
                f"{upload.site!r} has {upload.info['task']}. All sites need the same [task]."
            )
        if upload.info["fingerprint"] != code_fingerprint():
            raise FederationError(
                f"Site {upload.site!r} runs other code: fingerprint {upload.info['fingerprint']}, "
                f"the coordinator has {code_fingerprint()}. Install the same fedssl on both; under "
                "`flwr run`, start the SuperLink outside any source checkout."
            )
    fields = json.loads(first.info["task"])
    return Task(
        fields["name"],
        tuple(fields["classes"]),
        fields["mode"],
        Output(fields["output"]),
        fields["channels"],
    )


def build_roster(described: Sequence[Upload], run: RunConfig) -> dict[str, SiteInfo]:
    """Return the sites by name, in the order of `described`; refuse doubles and a missing role."""
    names = [u.site for u in described]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise FederationError(f"Two nodes say that they are site {twice[0]!r}; names must differ.")
    roster = {u.site: SiteInfo(u.site, u.role, u.num_examples, u.num_labeled) for u in described}
    labeled = sum(counts_as_labeled(info) for info in roster.values())
    if labeled < max(1, run.min_labeled):
        raise FederationError(
            f"{labeled} labeled or mixed sites of {len(roster)}, but min-labeled = "
            f"{run.min_labeled}: at least one site must have masks. Set roles in the federation "
            "file or 'labeled-sites'."
        )
    return roster
