"""A site's training cases as objectives see them: images, the masks they may use, stored maps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedssl.config import RunConfig
from fedssl.data.cache import PreparedSite
from fedssl.data.sizes import check_patch, parse_size
from fedssl.errors import DataError, TrainingError
from fedssl.types import Task

__all__ = ["SiteTrainingData"]

log = logging.getLogger("fedssl")

_STORED_DTYPES = (torch.uint8, torch.float16)
_MAP_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class SiteTrainingData:
    """Implements `fedssl.methods.base.TrainingData` on a prepared site.

    A mask is opened for the cases in `labeled` only. Stored maps are files under `stored_dir`, so
    they survive the process; what batches carry is what was saved, bit by bit. Behind its array a
    file says which run it belongs to, and the array's digest; one that is damaged, was changed, or
    belongs to another run is named in the log and not used.

    Args:
        prepared: the site's prepared cases.
        train: positions of the training cases.
        labeled: those among them whose mask is used.
        task: what is segmented.
        run: its `patch-size` is read here.
        device: where `image` and `label` put their tensors.
        stored_dir: folder for stored maps; made when the first one is stored.
    """

    def __init__(
        self,
        prepared: PreparedSite,
        train: Sequence[int],
        labeled: Sequence[int],
        task: Task,
        run: RunConfig,
        device: torch.device,
        stored_dir: Path,
    ) -> None:
        chosen = set(labeled)
        if not chosen <= set(train):
            raise ValueError("labeled positions have to be training positions")
        self.prepared, self.task, self.device = prepared, task, device
        self.patch = parse_size(run.patch_size, task, "patch-size")
        check_patch(self.patch, run)
        self._train = tuple(train)
        self._labeled = tuple(i for i in self._train if i in chosen)
        self._unlabeled = tuple(i for i in self._train if i not in chosen)
        self._kept = self._unlabeled
        self._stored_dir = stored_dir
        self.run_name = ""
        """Name of the run that stored maps belong to; empty: any."""
        self._stored: dict[int, dict[str, np.ndarray]] = {}
        self._verified: dict[str, tuple[int, int, int, str]] = {}
        self._foreground: dict[int, np.ndarray] = {}

    @property
    def labeled(self) -> tuple[int, ...]:
        """Positions of the cases whose mask is used in training."""
        return self._labeled

    @property
    def unlabeled(self) -> tuple[int, ...]:
        """Positions of the training cases without a usable mask."""
        return self._unlabeled

    @property
    def kept(self) -> tuple[int, ...]:
        """Those of `unlabeled` that batches are drawn from in this stage."""
        return self._kept

    @property
    def num_examples(self) -> int:
        """Training samples: images (2d), slices (slices, 2.5d) or volumes (3d)."""
        return sum(self.samples_in(case) for case in self._train)

    @property
    def num_labeled(self) -> int:
        """Training samples with a usable mask."""
        return sum(self.samples_in(case) for case in self._labeled)

    def samples_in(self, case: int) -> int:
        """Return the number of slices of a case in the slice modes, else 1."""
        sliced = self.task.mode in ("slices", "2.5d")
        return self.prepared.cases[case].shape[0] if sliced else 1

    def subject(self, case: int) -> int:
        """Return the position of the first training case that shows the same subject."""
        cases = self.prepared.cases
        return next(i for i in self._train if cases[i].subject == cases[case].subject)

    def image(self, case: int) -> Tensor:
        """Return one prepared image [C, *S] float32 on the device, neither padded nor cropped."""
        return torch.from_numpy(np.array(self.prepared.image(case))).to(self.device)

    def label(self, case: int) -> Tensor:
        """Return the mask [*S] int64 of a labeled case.

        Raises:
            TrainingError: the case is not labeled; its mask is not opened.
        """
        return torch.from_numpy(self.label_array(case).astype(np.int64)).to(self.device)

    def label_array(self, case: int) -> np.ndarray:
        """Return the mask [*S] uint8 of a labeled case, under the same condition as `label`."""
        if case not in self._labeled:
            raise TrainingError(
                f"Training asked for the mask of case {case}, which is not among the labeled cases "
                "of this site. Only labeled cases have masks in training."
            )
        return self.prepared.label(case)

    def foreground_counts(self, case: int) -> np.ndarray:
        """Return the foreground voxels per index of the mask's first axis, of a labeled case."""
        if case not in self._foreground:
            label = self.label_array(case)
            axes = tuple(range(1, label.ndim))
            self._foreground[case] = np.count_nonzero(label, axis=axes)
        return self._foreground[case]

    def store(self, case: int, **maps: Tensor) -> None:
        """Keep maps [M, *S] (uint8 or float16) of a case, in a file each, atomically.

        Raises:
            TrainingError: the dtype or shape of a map does not fit.
        """
        for name, value in maps.items():
            self._check_map(case, name, value)
        self._stored_dir.mkdir(parents=True, exist_ok=True)
        for name, value in maps.items():
            path = self._stored_path(case, name)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            array = np.ascontiguousarray(value.detach().cpu().numpy())
            with temporary.open("wb") as file:
                np.save(file, array)
                file.write(self._stamp(array))
            temporary.replace(path)
            self._stored.setdefault(case, {})[name] = np.load(path, mmap_mode="r")

    def stored_maps(self, case: int) -> dict[str, np.ndarray]:
        """Return read-only views of the maps [M, *S] of a case, by name."""
        return dict(self._stored.get(case, {}))

    def load_stored(self) -> None:
        """Pick up the maps that were stored in earlier rounds; forget `keep_only`."""
        self._kept = self._unlabeled
        self._stored = {}
        if not self._stored_dir.is_dir():
            return
        owners = {self._owner(case): case for case in self._train}
        for path in sorted(self._stored_dir.glob("*.npy")):
            owner, _, name = path.name.removesuffix(".npy").partition(".")
            if owner in owners:
                view = self._opened(path, owners[owner])
                if view is not None:
                    self._stored.setdefault(owners[owner], {})[name] = view

    def clear_stored(self) -> None:
        """Remove all stored maps."""
        self._stored = {}
        for path in self._stored_dir.glob("*.npy"):
            path.unlink(missing_ok=True)

    def keep_only(self, cases: Sequence[int]) -> None:
        """Draw unlabeled batches from these cases only, until `load_stored` starts a new stage.

        Raises:
            TrainingError: one of them is no unlabeled training case.
        """
        foreign = sorted(set(cases) - set(self._unlabeled))
        if foreign:
            raise TrainingError(f"Case {foreign[0]} cannot be kept: it is not an unlabeled case.")
        self._kept = tuple(i for i in self._unlabeled if i in set(cases))

    def _check_map(self, case: int, name: str, value: Tensor) -> None:
        shape = self.prepared.cases[case].shape
        fits = value.ndim == len(shape) + 1 and tuple(value.shape[1:]) == shape
        if value.dtype not in _STORED_DTYPES or not fits or not _MAP_NAME.fullmatch(name):
            raise TrainingError(
                f"Cannot store the map {name!r} of case {case} with shape {tuple(value.shape)} and "
                f"dtype {value.dtype}: needed are [M, {', '.join(map(str, shape))}], uint8 or "
                "float16, and a lower-case name."
            )

    def _opened(self, path: Path, case: int) -> np.ndarray | None:
        """Return a stored map, or None, with the reason in the log."""
        shape = self.prepared.cases[case].shape
        try:
            view: np.memmap = np.load(path, mmap_mode="r")
            with path.open("rb") as file:
                file.seek(view.offset + view.nbytes)
                stamp = file.read()
        except (OSError, ValueError) as error:
            _not_used(path, f"it is damaged: {error}")
            return None
        if view.shape[1:] != shape or prod(view.shape) == 0:
            raise DataError(
                f"The stored map {path} has the shape {view.shape}, but its case has {shape}: the "
                f"data or image-size have changed. Remove {self._stored_dir} or start a new run."
            )
        if reason := self._spoiled(path, view, stamp):
            _not_used(path, reason)
            return None
        return view

    def _spoiled(self, path: Path, view: np.ndarray, stamp: bytes) -> str:
        """Return why a map cannot be trusted; one that is unchanged is not looked through again."""
        try:
            written = json.loads(stamp)
            run, digest = written["run"], written["sha256"]
        except (ValueError, KeyError, TypeError):
            return "its stamp is missing or damaged"
        if self.run_name and run != self.run_name:
            return f"it is of the run {run}, not of {self.run_name}"
        status = path.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size, digest)
        if self._verified.get(path.name) != seen:
            if (found := _digest(view)) != digest:
                return f"its digest is {found}, but {digest} was written"
            self._verified[path.name] = seen
        return ""

    def _stamp(self, array: np.ndarray) -> bytes:
        return json.dumps({"run": self.run_name, "sha256": _digest(array)}).encode()

    def _owner(self, case: int) -> str:
        # positions shift when cases are added to the folder, names do not
        name = self.prepared.cases[case].name
        return hashlib.blake2b(name.encode(), digest_size=10).hexdigest()

    def _stored_path(self, case: int, name: str) -> Path:
        return self._stored_dir / f"{self._owner(case)}.{name}.npy"


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _not_used(path: Path, reason: str) -> None:
    log.error("The stored map %s is not used, the site goes on without it: %s.", path, reason)
