"""A method's objective, ready for one step."""

from __future__ import annotations

import pytest
from literal_pixels import Bench


@pytest.fixture
def bench(tmp_path, prepared_cache):
    return lambda *args, **keys: Bench(tmp_path, prepared_cache, *args, **keys)
