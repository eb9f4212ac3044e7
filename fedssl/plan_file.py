"""A plan as a TOML file that says why; people edit it, runs read it."""

from __future__ import annotations

import json

from fedssl.data.summary import Summary
from fedssl.planning import Plan

__all__ = ["plan_toml"]


def plan_toml(plan: Plan, summary: Summary, sites: int, federation: str = "") -> str:
    """Return the text of a plan: keys of a run, each with the reason for its value.

    Args:
        plan: what was derived.
        summary: what from.
        sites: of how many sites.
        federation: file that the run will name; empty where the plan's user gives it.
    """
    lines = [
        f"# A plan for {summary.task.name!r}: {summary.cases} cases of {sites} sites, "
        f"{summary.masks} with a mask,",
        f"# within {plan.memory / 1e9:.1f} GB; a step keeps {plan.needed / 1e9:.2f} GB. Made by "
        "`fedssl plan` from counts and histograms.",
        "# Edit it as you like. It holds keys of a run: give it with --config, or name it in a",
        '# file of your own, extends = "plan.toml". `fedssl-client prepare --config` takes it.',
    ]
    if federation:
        lines += ["", f"federation = {_toml(federation)}"]
    lines += _keys(plan, "")
    sections = dict.fromkeys(key.partition(".")[0] for key in plan.keys if "." in key)
    for section in sections:
        lines += ["", f"[{section}]", *_keys(plan, f"{section}.")[1:]]
    return "\n".join(lines) + "\n"


def _keys(plan: Plan, prefix: str) -> list[str]:
    lines = []
    for key, value in plan.keys.items():
        if not key.startswith(prefix) or ("." in key) != bool(prefix):
            continue
        name = key.removeprefix(prefix)
        lines += ["", f"# {plan.reasons[key]}", f"{name} = {_toml(value)}"]
    return lines


def _toml(value: object) -> str:
    """Return a scalar as TOML; its JSON form is TOML, too."""
    return json.dumps(value, ensure_ascii=False)
