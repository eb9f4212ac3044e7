"""Save and resume a run at the coordinator, atomically, after every round."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass

from safetensors.torch import load, save

from fedssl.config import RunConfig, flatten
from fedssl.errors import CheckpointError
from fedssl.functional.averaging import cpu_copy
from fedssl.memory import split_token, write_atomically
from fedssl.results import RunFolder
from fedssl.types import Arrays

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "new_run_token",
    "next_attempt",
    "save_checkpoint",
]

log = logging.getLogger("fedssl")

_MAY_DIFFER = {"rounds", "resume", "out", "data-root", "cache-dir", "device", "round-timeout"}
_MAY_DIFFER |= {"evaluate.every", "evaluate.surface", "evaluate.overlays", "min-labeled"}
_MAY_DIFFER |= {"min-unlabeled", "tracking"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the coordinator keeps between rounds.

    Args:
        token: names the run at the sites.
        round: first round that is still to be run.
        step: stages run so far.
        weights: global weights.
        rule: the server rule's state.
    """

    token: str
    round: int
    step: int
    weights: Arrays
    rule: Arrays


def new_run_token() -> str:
    """Return a name for a new run, under which sites keep their memory of it.

    It ends with the attempt: `<run>.0`, after a resume `<run>.1`, and so on.
    """
    return f"{secrets.token_hex(8)}.0"


def next_attempt(token: str) -> str:
    """Return the token of a run that is resumed; sites then know what is older and stale."""
    run, attempt = split_token(token)
    return f"{run}.{attempt + 1}"


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint, run: RunConfig) -> None:
    """Write one file; a reader sees the previous checkpoint or this one."""
    # Copies: a rule may keep the very tensors that are the weights, and a file holds each once.
    arrays = {f"weights/{k}": v for k, v in cpu_copy(checkpoint.weights).items()}
    arrays |= {f"rule/{k}": v for k, v in cpu_copy(checkpoint.rule).items()}
    metadata = {
        "token": checkpoint.token,
        "round": str(checkpoint.round),
        "step": str(checkpoint.step),
        "config": json.dumps(flatten(run), sort_keys=True),
    }
    write_atomically(folder.checkpoint, save(arrays, metadata=metadata))


def load_checkpoint(folder: RunFolder, run: RunConfig) -> Checkpoint:
    """Read the checkpoint of a run folder.

    Raises:
        CheckpointError: there is none, it is damaged, or the configuration is another one.
    """
    path = folder.checkpoint
    if not path.is_file():
        raise CheckpointError(
            f"Nothing to resume: {path} does not exist. Start without --resume, or give the 'out' "
            "folder of the run that was interrupted."
        )
    content = path.read_bytes()
    try:
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged and cannot be read: {error}. There is no earlier one: start again "
            "without --resume, with another 'out' folder or after moving this one away."
        ) from error
    _check_config(json.loads(metadata["config"]), run)
    if int(metadata["round"]) > run.rounds:
        raise CheckpointError(
            f"{path} is from after round {metadata['round']}, but 'rounds' = {run.rounds}. Give at "
            f"least {metadata['round']}, or another 'out' folder for a new run."
        )
    return Checkpoint(
        token=metadata["token"],
        round=int(metadata["round"]),
        step=int(metadata["step"]),
        weights=_under("weights/", arrays),
        rule=_under("rule/", arrays),
    )


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _check_config(saved: dict[str, object], run: RunConfig) -> None:
    now = json.loads(json.dumps(flatten(run)))
    differing = [
        f"{key}: {saved.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted({*saved, *now} - _MAY_DIFFER)
        if saved.get(key) != now.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"The run to resume had another configuration ({'; '.join(differing)}). Use the same "
            "values, or another 'out' folder for a new run."
        )
    if saved.get("rounds") != now["rounds"]:
        log.warning(
            "rounds: %s then, %s now. What is a share of them (warm-up, ramps, learning rates) "
            "follows the new number, so the weights may differ from those of one run of %s rounds.",
            saved.get("rounds"),
            now["rounds"],
            now["rounds"],
        )
