"""One tiny run for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import trained_run
from tiny_federations import write_federation


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on nested classes, with resized pictures and sliding windows."""
    folder = tmp_path_factory.mktemp("export")
    federation = write_federation(folder / "data")
    keys = {"method": "fedavg", "rounds": 1, "local-steps": 2}
    keys |= {"image-size": "24", "patch-size": "16"}
    return trained_run(folder, federation, keys)  # type: ignore[arg-type]  # flat keys of several types
