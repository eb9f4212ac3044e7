"""Miniature trees of public data sets, and sites on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedssl.data.source import FolderSource
from fedssl.federation import SiteSpec
from fedssl.types import Task

PICTURE = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.fixture
def picture() -> np.ndarray:
    """A grey picture [6, 8] whose values all differ."""
    return PICTURE


@pytest.fixture
def colour() -> np.ndarray:
    """A colour picture [6, 8, 3]."""
    return np.stack([PICTURE, PICTURE + 1, PICTURE + 2], axis=-1)


@pytest.fixture
def open_layout() -> Callable[..., FolderSource]:
    """Open a folder in a layout; what a layout lists is read through the real path."""

    def open_site(
        layout: str,
        path: Path,
        *,
        classes: int = 2,
        channels: int = 1,
        mode: str = "2d",
        role: str = "mixed",
        shard: tuple[int, int] | None = None,
        **options: str | int | float | bool,
    ) -> FolderSource:
        task = Task("t", tuple(f"c{i}" for i in range(classes)), mode=mode, channels=channels)
        given = {name.replace("_", "-"): value for name, value in options.items()}
        spec = SiteSpec(
            name="north", path=str(path), role=role, layout=layout, shard=shard, options=given
        )
        return FolderSource(spec, task)

    return open_site
