"""What a method declares to travel besides weights; the receiver checks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from fedssl.errors import FederationError, UploadError
from fedssl.types import Arrays

__all__ = ["ArraySpec", "Payload"]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and dtype of one declared extra; None stands for a free axis."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype = torch.float32

    def accepts(self, array: Tensor) -> bool:
        """Whether an array has this dtype and shape."""
        return array.dtype == self.dtype and (
            len(array.shape) == len(self.shape)
            and all(w is None or w == g for w, g in zip(self.shape, array.shape, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Payload:
    """Extras that may travel, by stage name and array name.

    A name may hold shell-style `*`, e.g. `teacher.*/head.weight`.
    """

    down: Mapping[str, Mapping[str, ArraySpec]] = field(default_factory=dict)
    up: Mapping[str, Mapping[str, ArraySpec]] = field(default_factory=dict)

    def check_download(self, stage: str, extras: Arrays) -> None:
        """Raise `FederationError` if a download carries an undeclared or misshapen extra."""
        problem = _undeclared(self.down.get(stage, {}), extras)
        if problem:
            raise FederationError(f"The download of stage {stage!r} {problem}")

    def check_upload(self, stage: str, extras: Arrays, site: str) -> None:
        """Raise `UploadError` if an upload carries an undeclared or misshapen extra."""
        problem = _undeclared(self.up.get(stage, {}), extras)
        if problem:
            raise UploadError(f"The upload of site {site!r} in stage {stage!r} {problem}")


def _undeclared(declared: Mapping[str, ArraySpec], extras: Arrays) -> str:
    for name, array in extras.items():
        specs = [spec for pattern, spec in declared.items() if fnmatchcase(name, pattern)]
        if not specs:
            return (
                f"carries {name!r}, which the method does not declare "
                f"(declared: {sorted(declared) or 'nothing'})."
            )
        if not any(spec.accepts(array) for spec in specs):
            return (
                f"carries {name!r} with shape {tuple(array.shape)} and dtype {array.dtype}; "
                f"declared are {specs[0].shape} and {specs[0].dtype}."
            )
    return ""
