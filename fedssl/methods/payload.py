"""What a method declares to travel besides weights; the receiver checks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from fedssl.errors import FederationError, UploadError
from fedssl.types import Arrays, Role, Upload

__all__ = ["EVERYONE", "HAVE_MASKS", "ArraySpec", "Payload"]

EVERYONE = tuple(Role)
HAVE_MASKS = (Role.LABELED, Role.MIXED)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and dtype of one declared extra.

    Args:
        shape: None stands for a free axis.
        dtype: of the tensor.
        always_from: roles whose uploads of the stage never lack it.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype = torch.float32
    always_from: tuple[Role, ...] = ()

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

    def check_upload(self, upload: Upload) -> None:
        """Raise `UploadError` if an extra is undeclared, misshapen or missing."""
        declared, extras = self.up.get(upload.stage, {}), upload.knowledge
        problem = _undeclared(declared, extras)
        lacking = [
            name
            for name, spec in declared.items()
            if upload.role in spec.always_from and name not in extras
        ]
        if lacking and not problem:
            problem = f"lacks {', '.join(lacking)}, which the method always sends."
        if problem:
            raise UploadError(
                f"The upload of site {upload.site!r} in stage {upload.stage!r} {problem}"
            )


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
