"""The synthetic federations as the tables of a federation file."""

from __future__ import annotations

from typing import Any

from fedssl.errors import ConfigError, did_you_mean

__all__ = ["SYNTHETIC", "synthetic_tables"]

_FUNDUS = {
    "kind": "fundus",
    "site": "clinic",
    "looks": (0, 1, 2, 3, 4),
    "task": {
        "name": "synthetic-fundus",
        "classes": ["background", "disc", "cup"],
        "mode": "2d",
        "output": "nested",
        "channels": 3,
    },
}
_PROSTATE = {
    "kind": "prostate",
    "site": "hospital",
    "looks": (0, 1, 2, 3, 4, 5),
    "task": {
        "name": "synthetic-prostate",
        "classes": ["background", "prostate"],
        "mode": "3d",
        "output": "exclusive",
        "channels": 1,
    },
}

SYNTHETIC: dict[str, dict[str, Any]] = {
    "synthetic": _FUNDUS,
    "synthetic-fundus": _FUNDUS,
    "synthetic-pair": {**_FUNDUS, "looks": (0, 2)},
    "synthetic-prostate": _PROSTATE,
}
"""Federations that need no file, by the name that the run key `federation` takes.

`synthetic-pair` is one labeled and one unlabeled site of `synthetic-fundus`: as many as the nodes
that Flower simulates unless it is told otherwise.
"""

_LABELED = 2


def synthetic_tables(name: str) -> dict[str, Any]:
    """Return a synthetic federation in the structure of a parsed federation.toml.

    Sites a and b are labeled, the others unlabeled; all have masks for evaluation.

    Raises:
        ConfigError: no synthetic federation has this name.
    """
    if name not in SYNTHETIC:
        raise ConfigError(
            f"No synthetic federation {name!r}.{did_you_mean(name, SYNTHETIC)} "
            f"There are {', '.join(SYNTHETIC)}."
        )
    recipe = SYNTHETIC[name]
    sites = [
        {
            "name": f"{recipe['site']}_{'abcdefgh'[look]}",
            "role": "labeled" if look < _LABELED else "unlabeled",
            "layout": "synthetic",
            "options": {"kind": recipe["kind"], "look": look},
        }
        for look in recipe["looks"]
    ]
    return {"task": dict(recipe["task"]), "site": sites}
