"""The reference bank on its way: named arrays, their declaration, checks, and the union.

A bank holds cluster centres of labeled pixels' features, one class each: no image, no mask, no
position. With M vectors of D channels it takes `M * (2 D + 5) + 4` bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.clustering import Bank, merge_banks
from fedssl.methods.base import ArraySpec, Payload
from fedssl.types import Arrays, Role, Task, Upload

__all__ = [
    "ReceivedBank",
    "bank_fault",
    "bank_nbytes",
    "bank_size",
    "collect",
    "missing_classes",
    "pack_bank",
    "payload",
    "union",
    "unpack_bank",
    "warn_if_small",
]

log = logging.getLogger("fedssl")

_EMPTY = (
    "it is empty; no class has enough pure cells in enough images (keys reference.min-pixels, "
    "reference.min-images, reference.purity)"
)
_UNIT_TOLERANCE = 0.01
"""Of a vector's length after rounding to float16."""


@dataclass(frozen=True, slots=True)
class ReceivedBank:
    """A bank and where it came from.

    Args:
        bank: reference features.
        round: of the weights that made them; only queries by the same weights can be compared.
        source: [M] int64 number of the site each vector came from; None if it was not sent.
    """

    bank: Bank
    round: int
    source: Tensor | None = None


def pack_bank(bank: Bank, round_: int) -> Arrays:
    """Return a bank as the extras that travel."""
    return {
        "bank_vectors": bank.vectors.half(),
        "bank_labels": bank.labels.to(torch.uint8),
        "bank_counts": bank.counts.to(torch.int32),
        "bank_round": torch.tensor(round_, dtype=torch.int32),
    }


def unpack_bank(arrays: Mapping[str, Tensor]) -> ReceivedBank | None:
    """Return the bank in some extras, or None if there is none or it is empty."""
    if "bank_vectors" not in arrays or not len(arrays["bank_vectors"]):
        return None
    bank = Bank(
        arrays["bank_vectors"].float(), arrays["bank_labels"].long(), arrays["bank_counts"].long()
    )
    source = arrays.get("bank_source")
    return ReceivedBank(bank, int(arrays["bank_round"]), None if source is None else source.long())


def bank_nbytes(vectors: int, channels: int) -> int:
    """Return the size of a packed bank: float16 vectors, a class, a count, and the round."""
    return vectors * (2 * channels + 1 + 4) + 4


def bank_size(arrays: Mapping[str, Tensor]) -> int:
    """Return the number of vectors in some extras."""
    return len(arrays["bank_labels"]) if "bank_labels" in arrays else 0


def payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the extras that travel: banks up, their union down.

    Raises:
        ConfigError: more classes than a label in the bank can tell apart.
    """
    if task.num_classes > 256:
        raise ConfigError(f"reference handles up to 256 classes; the task has {task.num_classes}.")
    up = {
        "bank_vectors": ArraySpec((None, run.model.width), torch.float16),
        "bank_labels": ArraySpec((None,), torch.uint8),
        "bank_counts": ArraySpec((None,), torch.int32),
        "bank_round": ArraySpec((), torch.int32),
    }
    down = {**up, "bank_source": ArraySpec((None,), torch.int32)}
    return Payload(down={"train": down}, up={"train": up, "bank": up})


def bank_fault(arrays: Arrays, *, num_classes: int, round_: int, largest: int) -> str:
    """Return what is wrong with a declared upload, or ''.

    Args:
        arrays: extras of an upload, of declared dtypes and axes.
        num_classes: classes including background.
        round_: round whose weights the bank must have been made with.
        largest: vectors that a site may send.
    """
    names = ("bank_vectors", "bank_labels", "bank_counts")
    if any(name not in arrays for name in (*names, "bank_round")):
        return "it is incomplete"
    lengths = [len(arrays[name]) for name in names]
    if len(set(lengths)) != 1 or lengths[0] > largest:
        return f"its arrays hold {lengths} entries; expected are equal numbers up to {largest}"
    if int(arrays["bank_round"]) != round_:
        return f"it was made in round {int(arrays['bank_round']) + 1}, not {round_ + 1}"
    if not lengths[0]:
        return ""
    if int(arrays["bank_labels"].max()) >= num_classes or int(arrays["bank_counts"].min()) < 1:
        return "a class or a count in it is out of range"
    off = (arrays["bank_vectors"].float().norm(dim=1) - 1).abs().max()
    return "its vectors are not of unit length" if float(off) > _UNIT_TOLERANCE else ""


def warn_if_small(arrays: Arrays, before: Arrays, k: int) -> None:
    """Log a warning, once, where a bank has no more vectors than the `k` that decide a label.

    Args:
        arrays: the union of all banks.
        before: that of the round before.
        k: nearest references that decide a label; of a small bank, all.
    """
    size, known = bank_size(arrays), 0 < bank_size(before) <= k
    if 0 < size <= k and not known:
        log.warning(
            "The bank has %d vectors, so all of them are among the %d nearest references. Raise "
            "reference.cap-per-image-class or reference.grid, or lower reference.min-pixels or "
            "reference.k.",
            size,
            k,
        )


def union(
    banks: Sequence[Bank], round_: int, *, k_max: int, num_classes: int, by_site: bool
) -> Arrays:
    """Return the union of non-empty banks as extras to download; {} if there is no bank.

    Args:
        banks: in site order.
        round_: of the weights that made them.
        k_max: vectors of the union at most, unless there are more classes.
        num_classes: classes including background.
        by_site: keep the sites apart, each with an equal share, and say which vector is whose.
    """
    if not banks:
        return {}
    if not by_site:
        return pack_bank(merge_banks(banks, max(k_max, num_classes)), round_)
    share = max(k_max // len(banks), num_classes)
    parts = [merge_banks([bank], share) for bank in banks]
    joined = Bank(
        torch.cat([p.vectors for p in parts]),
        torch.cat([p.labels for p in parts]),
        torch.cat([p.counts for p in parts]),
    )
    numbers = [torch.full_like(p.labels, i, dtype=torch.int32) for i, p in enumerate(parts)]
    return {**pack_bank(joined, round_), "bank_source": torch.cat(numbers)}


def collect(
    uploads: Sequence[Upload],
    round_: int,
    *,
    classes: Sequence[str],
    previous: Arrays,
    largest: int,
    k_max: int,
    by_site: bool,
) -> Arrays:
    """Return the union of the sound banks among some uploads.

    Warns of banks that are not used, and of missing classes that `previous` still had.

    Args:
        uploads: of one stage, in site order; those of unlabeled sites are passed over.
        round_: as for `bank_fault`.
        classes: names, background first.
        previous: the last union, or {}.
        largest: as for `bank_fault`.
        k_max: as for `union`.
        by_site: as for `union`.
    """
    banks: list[Bank] = []
    for upload in (u for u in uploads if u.role != Role.UNLABELED):
        fault = bank_fault(
            upload.knowledge, num_classes=len(classes), round_=round_, largest=largest
        )
        received = None if fault else unpack_bank(upload.knowledge)
        if received is None:
            log.warning(
                "The reference bank of site %s is not used: %s.", upload.site, fault or _EMPTY
            )
        else:
            banks.append(received.bank)
    found = union(banks, round_, k_max=k_max, num_classes=len(classes), by_site=by_site)
    missing = missing_classes(found, classes)
    if missing and missing != missing_classes(previous, classes):
        log.warning(
            "No labeled site has references of %s; pseudo-labels will not contain them.",
            ", ".join(missing),
        )
    return found


def missing_classes(arrays: Arrays, classes: Sequence[str]) -> list[str]:
    """Return the names of the classes without a reference; they can never be assigned."""
    present = set(arrays["bank_labels"].tolist()) if arrays else set()
    return [name for index, name in enumerate(classes) if index not in present]
