"""Nobody waits between two looks at who is there."""

from __future__ import annotations

import pytest

import fedssl.members


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedssl.members, "POLL", 0.0)
