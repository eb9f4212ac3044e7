"""The rounds of semi-supervised methods: a supervised warm-up, then relabelings at intervals."""

from __future__ import annotations

from fedssl.errors import ConfigError

__all__ = ["check_warmup", "is_refresh", "refresh_period", "warmup_rounds"]


def warmup_rounds(given: int, rounds: int) -> int:
    """Return the number of supervised rounds; -1 asks for a third of all."""
    return rounds // 3 if given < 0 else given


def refresh_period(given: int, rounds: int) -> int:
    """Return the rounds between relabelings; -1 asks for a sixth of all, 0 means only once."""
    return max(1, rounds // 6) if given < 0 else given


def is_refresh(round_: int, warmup: int, period: int) -> bool:
    """Whether unlabeled images are labeled anew: right after the warm-up, then every period."""
    since = round_ - warmup
    return since == 0 or (since > 0 and period > 0 and since % period == 0)


def check_warmup(method: str, given: int, rounds: int) -> None:
    """Raise `ConfigError` where the warm-up leaves no round for the unlabeled sites."""
    if warmup_rounds(given, rounds) >= rounds:
        raise ConfigError(
            f"Key '{method}.warmup-rounds' = {given} leaves no round for the unlabeled sites, "
            f"'rounds' = {rounds}. Lower the first or raise the second."
        )
