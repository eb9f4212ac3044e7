"""A check's report for scripts. It names files: it is for the site's own eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from fedssl.data.check import SiteReport
from fedssl.data.check_findings import DataFinding, Level
from fedssl.data.summary import AXES

__all__ = ["SCHEMA", "report_table", "statistics_table"]

SCHEMA: Final = "fedssl.check/1"


def report_table(reports: Sequence[SiteReport], together: Sequence[DataFinding]) -> dict[str, Any]:
    """Return what JSON can hold; its form changes only together with `SCHEMA`.

    Args:
        reports: one per site.
        together: findings that concern several sites.
    """
    errors = sum(r.errors for r in reports) + sum(f.level == Level.ERROR for f in together)
    count = sum(len(r.findings) for r in reports) + len(together)
    return {
        "schema": SCHEMA,
        "ok": errors == 0,
        "errors": errors,
        "warnings": count - errors,
        "sites": [_site(report) for report in reports],
        "between_sites": [asdict(finding) for finding in together],
    }


def statistics_table(report: SiteReport) -> dict[str, Any]:
    """Return counts, sizes, spacings, intensities and classes of the cases that could be read."""
    facts = report.facts
    if not facts:
        return {}
    count = sum(f.image.count for f in facts)
    mean = sum(f.image.total for f in facts) / count
    variance = sum(f.image.squares for f in facts) / count - mean**2
    masks = [f.voxels for f in facts if f.voxels is not None]
    total = sum(sum(row) for row in masks)
    dims = max(len(f.shape) for f in facts)
    return {
        "size": {
            axis: _spread([float(f.shape[-place]) for f in facts if len(f.shape) >= place])
            for axis, place in _axes(dims)
        },
        "spacing": {
            axis: _spread([f.spacing[-place] for f in facts if len(f.spacing) >= place])
            for axis, place in _axes(dims)
        },
        "spacing_units": sorted({f.unit for f in facts}),
        "intensity": {
            "min": min(f.low for f in facts),
            "max": max(f.high for f in facts),
            "mean": mean,
            "std": max(variance, 0.0) ** 0.5,
        },
        "classes": [
            {
                "value": k,
                "name": name,
                "fraction": sum(row[k] for row in masks) / total if total else 0.0,
                "masks": sum(row[k] > 0 for row in masks),
            }
            for k, name in enumerate(report.task.classes)
        ],
    }


def _site(report: SiteReport) -> dict[str, Any]:
    site = report.site
    return {
        "site": site.name,
        "role": site.role.value,
        "layout": site.layout,
        "path": site.path,
        "cases": report.cases,
        "readable": len(report.facts),
        "masks": sum(f.voxels is not None for f in report.facts),
        "subjects": len({p.subject for p in report.places}),
        "errors": report.errors,
        "warnings": len(report.findings) - report.errors,
        "statistics": statistics_table(report),
        "findings": [asdict(finding) for finding in report.findings],
    }


def _axes(dims: int) -> list[tuple[str, int]]:
    """Return axis names with their place from the end, the first axis first."""
    return [(AXES[-place], place) for place in range(dims, 0, -1)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}
