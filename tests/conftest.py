"""What several folders of tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Relative paths of a federation start at FEDSSL_DATA where it is set; the tests' own do not. Under
# the other name it reaches pytest-xdist's workers, which are started after this.
_REAL_DATA = os.environ.setdefault("FEDSSL_TEST_DATA", os.environ.pop("FEDSSL_DATA", ""))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets, which never are in the repository."""
    if not _REAL_DATA:
        pytest.skip("FEDSSL_DATA is not set: no real images on this machine")
    return Path(_REAL_DATA)


@pytest.fixture(scope="session")
def prepared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of prepared images for all tiny runs; it never decides a result."""
    return tmp_path_factory.mktemp("prepared")
