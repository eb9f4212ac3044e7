"""What several folders of tests need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prepared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of prepared images for all tiny runs; it never decides a result."""
    return tmp_path_factory.mktemp("prepared")
