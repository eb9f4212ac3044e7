"""A site in a folder, for the tests of the training loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_site import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
