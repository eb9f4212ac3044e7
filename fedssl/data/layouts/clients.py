"""Trees of `client1` .. `client4`, in which the .npy releases keep their sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedssl.data.layouts.layout import choice
from fedssl.data.layouts.tree import Name, need
from fedssl.federation import SiteSpec

__all__ = ["client_folder", "client_option", "fundus_count"]

_FUNDUS = {"client1": 101, "client2": 159, "client3": 400, "client4": 400}
"""Images of Drishti-GS, RIM-ONE-r3, REFUGE training and REFUGE validation."""


def client_option(clients: Sequence[str]) -> dict[str, str]:
    """Return the option that names a client."""
    return {"client": f"one of {', '.join(clients)}, where path is the folder above"}


def client_folder(
    spec: SiteSpec, root: Path, layout: str, clients: Sequence[str], expected: str, *above: Name
) -> Path:
    """Return a client's folder below `root` or below `above` in it; without the option, `root`.

    Raises:
        DataError: an unknown client, or it has no folder.
    """
    if "client" not in spec.options:
        return root
    client = choice(spec, "client", clients, "")
    return need(spec, root, layout, f"{client}/{expected}", (client,), (*above, client))


def fundus_count(spec: SiteSpec) -> dict[str, int]:
    """Return how many images a fundus client is published with."""
    client = str(spec.options.get("client", Path(spec.path).name)).casefold()
    return {"images": _FUNDUS[client]} if client in _FUNDUS else {}
