"""The page's first part: what ran, the main numbers, results per site, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from fedssl.report.html import Child, Markup, join, tag
from fedssl.report.load import Run
from fedssl.report.parts import byte_size, duration, mean, value
from fedssl.results import absences, lost_classes

__all__ = ["answered", "header", "overview", "site_dice"]

_DISTANCES = ("hd95", "assd")
_NAMES = {"hd95": "HD95", "assd": "ASSD"}


def header(run: Run, summary: str) -> Markup:
    """Return title and facts.

    Args:
        run: what ran.
        summary: one line about the method.
    """
    results = run.results
    digest = str(results["weights_sha256"])
    copy = tag("button", "copy", type="button", class_="plain copy", data_text=digest)
    facts: dict[str, Child] = {
        "Federation": PurePath(str(run.config.get("federation", results["task"]["name"]))).name,
        "Seed": results["seed"],
        "Rounds": results["rounds"],
        "Engine": results["engine"],
        "Finished": str(results.get("finished", "")).replace("T", " ").replace("Z", " UTC"),
        "Digest of the weights": tag(
            "span", tag("span", digest, class_="mono"), copy, class_="digest"
        ),
    }
    listed = [tag("div", tag("dt", name), tag("dd", fact)) for name, fact in facts.items()]
    return join(
        tag("p", "fedssl run", class_="brand"),
        tag("h1", results["method"], tag("span", f" on {results['task']['name']}")),
        tag("p", summary, class_="summary") if summary else None,
        tag("dl", *listed, class_="facts"),
    )


def overview(run: Run) -> Markup:
    """Return cards, the table of sites, and the notes."""
    return join(
        _cards(run),
        tag("h2", "Test split, per site"),
        _site_table(run),
        tag(
            "p",
            "Dice is the mean over cases; distances that are 0 for a perfect result: HD95 is the "
            "95th percentile of the Hausdorff distance, ASSD the average symmetric surface "
            "distance. A class that is missing in one of both masks counts with Dice 0 and the "
            "image's diagonal.",
            class_="quiet",
        ),
        tag("h2", "What these numbers rest on"),
        *(tag("p", note, class_="note") for note in _notes(run)),
        _privacy(run),
    )


def site_dice(site: Mapping[str, Any]) -> float | None:
    """Return a site's Dice, the mean over its classes, or None without masks."""
    return mean(list(site["dice"].values()))


def answered(site: Mapping[str, Any]) -> bool:
    """Return whether a site took part in the final evaluation; older runs do not say."""
    return bool(site.get("answered", True))


def _cards(run: Run) -> Markup:
    results = run.results
    groups = {
        f"Dice, {role} sites": mean([site_dice(s) for s in run.sites.values() if s["role"] == role])
        for role in ("labeled", "mixed", "unlabeled")
    }
    numbers: dict[str, Child] = {"Mean Dice over sites": value(results["mean_dice"], 3)}
    numbers |= {name: value(v, 3) for name, v in groups.items() if v is not None}
    numbers |= {
        "Time in rounds": duration(results["wall_seconds"]),
        "Sent by sites": byte_size(results["bytes_up"]),
        "Sent to sites": byte_size(results["bytes_down"]),
    }
    cards = [
        tag("div", tag("b", n), tag("span", name), class_="card") for name, n in numbers.items()
    ]
    return tag("div", *cards, class_="cards")


def _site_table(run: Run) -> Markup:
    classes = run.foreground
    pseudo = any(s["pseudo_dice"] is not None for s in run.sites.values())
    shown = [m for m in _DISTANCES if any(_known(s, m) for s in run.sites.values())]
    groups = [tag("th", name, rowspan=2, scope="col") for name in ("Site", "Role")]
    span = len(classes)
    groups.append(tag("th", "Dice", colspan=span, class_="group"))
    groups += [tag("th", _NAMES[m], colspan=span, class_="group") for m in shown]
    last = (["Pseudo-label Dice"] if pseudo else []) + ["Test cases", "Training samples"]
    groups += [tag("th", name, rowspan=2, scope="col", class_="num") for name in last]
    names = [tag("th", c, scope="col", class_="num") for _ in ("dice", *shown) for c in classes]
    head = tag("thead", tag("tr", *groups), tag("tr", *names))
    body = tag("tbody", *(_site_row(n, s, shown, pseudo) for n, s in run.sites.items()))
    foot = tag("tfoot", *_mean_rows(run, shown, pseudo))
    return tag("div", tag("table", head, body, foot), class_="scroll")


def _known(site: Mapping[str, Any], metric: str) -> bool:
    return any(v is not None for v in site[metric].values())


def _site_row(name: str, site: Mapping[str, Any], distances: Sequence[str], pseudo: bool) -> Markup:
    labeled, total = site["num_labeled"], site["num_examples"]
    samples = f"{total}" if labeled in (0, total) else f"{labeled} of {total} labeled"
    cells = [
        tag("th", name, scope="row"),
        tag("td", tag("span", site["role"], class_=f"role {site['role']}")),
        *(_share(v) for v in site["dice"].values()),
    ]
    unit = "px" if site["distance_unit"] == "pixel" else site["distance_unit"]
    for metric in distances:
        for distance in site[metric].values():
            text = join(value(distance, 2), f" {unit}" if distance is not None else None)
            cells.append(tag("td", text, class_="num"))
    if pseudo:
        cells.append(tag("td", value(site["pseudo_dice"], 3), class_="num"))
    cases = site["cases"] if answered(site) else "no answer"
    cells += [tag("td", text, class_="num") for text in (cases, samples)]
    return tag("tr", *cells, data_site=name)


def _share(dice: float | None) -> Markup:
    style = None if dice is None else f"--v:{dice:.4f}"
    return tag("td", value(dice, 3), class_="num share", style=style)


def _mean_rows(run: Run, distances: Sequence[str], pseudo: bool) -> list[Markup]:
    roles = list(dict.fromkeys(s["role"] for s in run.sites.values()))
    rows = []
    for role in (*roles, None) if len(roles) > 1 else (None,):
        sites = [s for s in run.sites.values() if role in (None, s["role"])]
        name = "Mean over sites" if role is None else f"Mean, {role}"
        same_unit = len({s["distance_unit"] for s in sites}) == 1
        cells = [tag("th", name, scope="row", colspan=2)]
        for metric in ("dice", *distances):
            for class_ in run.foreground:
                known = mean([s[metric][class_] for s in sites])
                usable = known if metric == "dice" or same_unit else None
                cells.append(tag("td", value(usable, 3 if metric == "dice" else 2), class_="num"))
        if pseudo:
            cells.append(tag("td", value(mean([s["pseudo_dice"] for s in sites]), 3), class_="num"))
        totals = (sum(s["cases"] for s in sites), sum(s["num_examples"] for s in sites))
        cells += [tag("td", total, class_="num") for total in totals]
        rows.append(tag("tr", *cells))
    return rows


def _notes(run: Run) -> list[Child]:
    hidden = [n for n, s in run.sites.items() if s["role"] == "unlabeled" and s["cases"]]
    diagnosed = sorted(_diagnosed(run))
    notes: list[Child] = []
    if silent := [n for n, s in run.sites.items() if not answered(s)]:
        notes.append(
            f"Did not answer the final evaluation: {', '.join(silent)}. Means are over the others. "
            "--resume evaluates again."
        )
    notes += absences(run.sites) + lost_classes(run.sites)
    if hidden:
        notes.append(
            f"Masks of unlabeled sites ({', '.join(hidden)}) exist on disk. Training does not open "
            "them; they serve the evaluation here"
            + (
                f" and, as a diagnostic, the quality of pseudo-labels ({', '.join(diagnosed)})."
                if diagnosed
                else "."
            )
        )
    elif diagnosed:
        notes.append(
            f"At {', '.join(diagnosed)} images that train without a mask have one on "
            "disk. Training does not open it; it tells the quality of pseudo-labels here."
        )
    else:
        notes.append("No mask of an unlabeled image was used, neither to train nor to evaluate.")
    notes.append(
        "The weights are those of the last round: nothing was selected on the test split. Splits "
        "are those published with a data set where its layout reads them, else by subject, fold "
        f"{run.config.get('split.fold', 0)} of {run.config.get('split.folds', '?')}, split seed "
        f"{run.config.get('split.seed', '?')}; curves show the validation split."
    )
    return notes


def _privacy(run: Run) -> Markup:
    if run.overlays or run.cases:
        command = tag("code", "fedssl report --share RUN_FOLDER")
        text = join(
            "This file holds names and pictures of cases. Before it goes to somebody who may not "
            "see them, write one without: ",
            command,
        )
        return tag("p", text, class_="note warn")
    return tag(
        "p",
        "Values per case and pictures are not part of this file. At each site they lie in its own "
        "state folder: cases.jsonl and overlays/.",
        class_="note",
    )


def _diagnosed(run: Run) -> set[str]:
    found = {n for n, s in run.sites.items() if s["pseudo_dice"] is not None}
    for record in run.rounds:
        for name, result in record["evaluation"].items():
            if any(key.startswith("pseudo_") for key in result["metrics"]):
                found.add(name)
    return found
