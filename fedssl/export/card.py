"""The model card of an export, in Markdown: data, sites, labels, results, method, limits."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedssl import __version__
from fedssl.config import flatten
from fedssl.export.metadata import UNKNOWN
from fedssl.export.record import RunRecord, SiteRecord
from fedssl.predict import Trained
from fedssl.results import config_toml
from fedssl.types import Role

__all__ = ["markdown_cell", "model_card"]

_FEW = 10
"""Fewer test cases than this say little about a site."""

_LOCAL = {"device", "out", "data-root", "cache-dir", "federation", "resume", "tracking"}
"""Keys that say where things are, not what was trained."""


def model_card(trained: Trained, record: RunRecord, metadata: Mapping[str, Any], usage: str) -> str:
    """Return the card.

    Args:
        trained: the network, its task and configuration.
        record: of the run.
        metadata: of the export.
        usage: Markdown on how to run this form of export.
    """
    layers: str | None = metadata["fedssl"]["layers_of_site"]
    blocks = [
        f"# {html.escape(metadata['name'], quote=False)}",
        metadata["description"],
        f"**{metadata['intended_use']}**",
        "## Use\n" + usage,
        "## Labels\n" + _labels(trained),
        "## Data and sites\n" + _sites(trained, record),
        "## Results\n" + _metrics(trained, record, metadata),
        "## Method\n" + _method(trained),
        "## Before and after the network\n" + _bullets(metadata["fedssl"]["processing"]),
        "## Known limits\n" + "\n".join(f"- {line}" for line in _limits(record, layers)),
        "## Provenance\n" + _provenance(metadata),
        "## Configuration\n" + _configuration(trained),
    ]
    return "\n\n".join(blocks) + "\n"


def _labels(trained: Trained) -> str:
    rows = [[str(i), name] for i, name in enumerate(trained.task.classes)]
    nesting = f"\n\nChannel encoding of the network: {trained.seen.output.value}."
    return _table(["value in a mask", "class"], rows) + nesting


def _sites(trained: Trained, record: RunRecord) -> str:
    rows = []
    for name, site in record.sites.items():
        samples = [str(n) if site.trained else "-" for n in (site.num_examples, site.num_labeled)]
        rows.append([name, site.role.value, site.part, *samples])
    source = Path(trained.run.federation).name
    text = f"Task `{trained.task.name}`, federation `{source}`. Images never left their site."
    heads = ["site", "role", "part in the run", "training samples", "of them with masks"]
    return f"{text}\n\n{_table(heads, rows)}"


def _metrics(trained: Trained, record: RunRecord, metadata: Mapping[str, Any]) -> str:
    rows = [
        [name, label, *_scores(site, label)]
        for name, site in record.sites.items()
        for label in trained.task.foreground
    ]
    layers: str | None = metadata["fedssl"]["layers_of_site"]
    split = ", ".join(sorted({site.split for site in record.sites.values()}))
    whose = "global model" if layers is None else "each site with its own private layers,"
    text = (
        f"Means over the cases of the {split} split, {whose} after the last round; no choice "
        "was made on that split by fedssl."
    )
    if layers is not None:
        others = "the rows of the others do" if layers == UNKNOWN else "the other rows do"
        text += f" This export holds the private layers of {layers}; {others} not describe it."
    mean = metadata["eval_metrics"]["mean_dice"]
    if mean is not None:
        sites = ", ".join(metadata["fedssl"]["mean_dice_sites"])
        text += f" Mean Dice over the classes at {sites}: {mean:.3f}."
    heads = ["site", "class", "cases", "Dice", "HD95", "ASSD"]
    return f"{text}\n\n{_table(heads, rows)}"


def _scores(site: SiteRecord, label: str) -> list[str]:
    unit = "px" if site.distance_unit == "pixel" else site.distance_unit
    return [
        str(site.cases) if site.answered else "-",
        _number(site.dice.get(label), 3),
        _number(site.hd95.get(label), 2, unit),
        _number(site.assd.get(label), 2, unit),
    ]


def _method(trained: Trained) -> str:
    summary = trained.method.summary.rstrip(".")
    return (
        f"`{trained.method.name}`: {summary}. A re-implementation; what of it is "
        f"certain and what is inferred stands in fedssl's docs/methods/{trained.method.name}.md."
    )


def _limits(record: RunRecord, layers: str | None) -> list[str]:
    sites = record.sites
    few = [f"{n} ({s.cases})" for n, s in sites.items() if 0 < s.cases < _FEW]
    unscored = [n for n, s in sites.items() if s.answered and not s.scored]
    unlabeled = [n for n, s in sites.items() if s.trained and s.role == Role.UNLABELED]
    lines = [
        "Scored only at the sites above; on images of other scanners, protocols or patients it "
        "may do worse, and nothing here says how much.",
        "One run with one seed: the numbers say nothing about the randomness of training.",
        "It finds only the classes above, and always answers, also on images of something else.",
    ]
    if unlabeled:
        lines.append(f"Trained without masks of {', '.join(unlabeled)}.")
    if few:
        lines.append(f"Few test cases, so wide uncertainty: {', '.join(few)}.")
    if record.silent:
        lines.append(f"Did not answer the final evaluation: {', '.join(record.silent)}.")
    if unscored:
        lines.append(f"No masks to score with, so quality is unknown: {', '.join(unscored)}.")
    if layers is not None:
        lines.append(f"Holds layers of {layers}; elsewhere it may do worse than there.")
    return lines


def _provenance(metadata: Mapping[str, Any]) -> str:
    table: Mapping[str, Any] = metadata["fedssl"]
    names = ("weights_sha256", "exported_sha256", "seed", "rounds", "engine", "finished")
    facts = {name: table[name] for name in names} | {"exported by": f"fedssl {__version__}"}
    facts |= {f"trained with {name}": value for name, value in table["versions"].items()}
    return _bullets(facts)


def _configuration(trained: Trained) -> str:
    flat = flatten(trained.run)
    guided = bool(flat.get("quality.guide")) or trained.run.method == "quality"
    kept = {
        key: value
        for key, value in flat.items()
        if key not in _LOCAL and (guided or not key.startswith("quality."))
    }
    return f"```toml\n{config_toml(kept)}```"


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f} {unit}".strip()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[markdown_cell(text) for text in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_cell(text: str) -> str:
    """Return text that stays in its cell of a table, and is no markup there."""
    plain = html.escape(" ".join(text.splitlines()), quote=False)
    return plain.replace("\\", r"\\").replace("|", r"\|")
