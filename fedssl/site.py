"""One site: its data, its role, its state directory. It turns a `Download` into an `Upload`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedssl.config import RunConfig
from fedssl.data.batches import Batches, SiteTrainingData
from fedssl.data.prepare import PreparedSite, PreparePlan, prepare_site
from fedssl.data.source import open_source
from fedssl.data.splits import Split, labeled_positions, make_split
from fedssl.engine import SiteRuntime, load_weights, pick_device, run_stage
from fedssl.errors import DataError, FederationError
from fedssl.evaluate import (
    CaseScore,
    add_sums,
    in_task,
    predict_label,
    pseudo_label_sums,
    score_case,
    summed,
)
from fedssl.federation import SiteSpec
from fedssl.fingerprint import code_fingerprint
from fedssl.memory import FileMemory, split_token, write_atomically
from fedssl.methods import method_of
from fedssl.models import SegmentationModel, channels_last
from fedssl.roster import plan_text, task_text
from fedssl.seeds import derive_seed, generators, seeded
from fedssl.types import Download, Role, Task, Upload

__all__ = ["Site", "versions"]

log = logging.getLogger("fedssl")

_MODELS: dict[str, tuple[SegmentationModel, dict[str, Tensor]]] = {}


def versions() -> dict[str, str]:
    """Return the versions that decide whether two machines compute the same."""
    names = ("fedssl", "torch", "monai", "numpy", "SimpleITK", "flwr")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def shared_model(run: RunConfig, task: Task, device: torch.device) -> SegmentationModel:
    """Return this process's one model for a configuration, as it was initialised.

    Sites take turns with it; none finds what another left in parts that do not travel.
    """
    key = f"{run.model_dump_json()}{run.method_config!r}{run.quality!r}{task!r}{device}"
    if key not in _MODELS:
        _MODELS.clear()
        with seeded(derive_seed(run.seed, "init"), torch.device("cpu")):
            model = method_of(run).build_model(run, task).to(device)
        channels_last(model)
        _MODELS[key] = model, {k: v.clone() for k, v in model.state_dict().items()}
    model, initial = _MODELS[key]
    load_weights(model, initial)
    return model


class Site:
    """One site of a federation.

    Args:
        spec: where the data lie and which role the site has.
        task: what is segmented.
        run: the run's configuration.
        state: the site's own directory; everything in it stays at the site.
    """

    def __init__(self, spec: SiteSpec, task: Task, run: RunConfig, state: Path) -> None:
        self.spec, self.task, self.run, self.state = spec, task, run, state
        self.trained_task = method_of(run).task(task)
        torch.set_num_threads(run.threads)
        self.device = pick_device(run.device)
        source = open_source(spec, task)
        self.prepared: PreparedSite = prepare_site(source, PreparePlan.from_run(run, task), run)
        cases = self.prepared.cases
        self.split: Split = make_split(
            [c.subject for c in cases], run.split, spec.name, [c.split for c in cases]
        )
        labeled = labeled_positions(self.prepared, self.split.train, spec)
        if spec.role != Role.UNLABELED and not labeled:
            raise DataError(
                f"Site {spec.name!r} has the role {spec.role}, but no training case has a mask in "
                f"{spec.path}. Add masks, or make the site unlabeled."
            )
        self.data = SiteTrainingData(
            self.prepared, self.split.train, labeled, task, run, self.device, state / "pseudo"
        )

    def answer(self, download: Download) -> Upload:
        """Return the reply to one download: `describe`, `evaluate`, or a stage of the method."""
        if download.site not in ("", self.spec.name):
            raise FederationError(
                f"A message for site {download.site!r} reached site {self.spec.name!r}."
            )
        if download.stage == "describe":
            return self._upload(download, info=self._info())
        if download.stage == "evaluate":
            return self._upload(download, metrics=self._evaluate(download))
        return self._train(download)

    def _upload(self, download: Download, **fields: object) -> Upload:
        return Upload(
            site=self.spec.name,
            role=self.spec.role,
            round=download.round,
            stage=download.stage,
            num_examples=self.data.num_examples,
            num_labeled=self.data.num_labeled,
            **fields,  # type: ignore[arg-type]  # fields of several types
        )

    def _info(self) -> dict[str, str]:
        return {
            "fingerprint": code_fingerprint(),
            "task": task_text(self.task),
            "plan": plan_text(self.run, self.task),
            "versions": json.dumps(versions(), sort_keys=True),
            "distance_unit": self.prepared.cases[0].distance_unit,
        }

    def _train(self, download: Download) -> Upload:
        method = method_of(self.run)
        model = shared_model(self.run, self.trained_task, self.device)
        payload = method.payload(self.run, self.trained_task, dict(model.state_dict()))
        payload.check_download(download.stage, download.knowledge)
        self._enter(download)
        self.data.load_stored()
        purpose = (download.round, download.stage, self.spec.name, "batches")
        rng = generators(self.run.seed, *purpose)
        runtime = SiteRuntime(
            name=self.spec.name,
            role=self.spec.role,
            run=self.run,
            task=self.trained_task,
            method=method,
            model=model,
            data=self.data,
            batches=Batches(self.data, self.run, self.task, rng.numpy, rng.torch),
            memory=self._memory(download),
            device=self.device,
        )
        result = run_stage(runtime, download)
        return self._upload(
            download, weights=result.weights, knowledge=result.knowledge, metrics=result.metrics
        )

    def _memory(self, download: Download) -> FileMemory:
        run, _ = split_token(download.run)
        return FileMemory(self.state / "memory", download.round, download.step, run)

    def _enter(self, download: Download) -> None:
        """Forget what belongs to another run; refuse a message older than what was done.

        Raises:
            FederationError: the message is stale. It waited while this site was away, and would
                put older pseudo-labels in the place of newer ones.
        """
        (run, attempt), latest = split_token(download.run), self.state / "latest"
        self.data.run_name = run
        self._forget_other_runs(run, latest)
        with contextlib.suppress(OSError, ValueError):
            done = tuple(int(n) for n in latest.read_text(encoding="ascii").split())
            if (attempt, download.step) < done:
                raise FederationError(
                    f"Site {self.spec.name!r} ignores a message of round {download.round + 1}, "
                    f"stage {download.stage!r}, step {download.step} of attempt {attempt}: it is "
                    f"stale, step {done[1]} of attempt {done[0]} was done already."
                )
        # Not synced to disk: after a power failure nothing waits that could be stale.
        temporary = latest.with_name(f".{latest.name}.{os.getpid()}.tmp")
        temporary.write_text(f"{attempt} {download.step}", encoding="ascii")
        temporary.replace(latest)

    def _forget_other_runs(self, run: str, latest: Path) -> None:
        """Empty the state directory when it belongs to another run."""
        stamp = self.state / "run"
        before = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
        if before == run:
            return
        if before:
            log.warning(
                "Site %s: the state of run %s is not used in run %s and is removed.",
                self.spec.name,
                before,
                run,
            )
        for path in sorted((self.state / "memory").glob("*.safetensors")):
            path.unlink()
        self.data.clear_stored()
        latest.unlink(missing_ok=True)
        write_atomically(stamp, run.encode())

    def _evaluate(self, download: Download) -> dict[str, float]:
        split = download.options.get("split", "val")
        surface = download.options.get("surface") == "true"
        self._enter(download)
        model = shared_model(self.run, self.trained_task, self.device)
        load_weights(model, download.weights)
        load_weights(model, self._memory(download).load("private") or {})

        def predict(case: int) -> np.ndarray:
            label = predict_label(
                model,
                self.data.image(case),
                self.trained_task,
                patch=self.data.patch,
                overlap=self.run.evaluate.overlap,
                batch_size=self.run.batch_size,
            )
            return label.to(torch.uint8).cpu().numpy()

        scores: dict[int, CaseScore] = {}
        for case in getattr(self.split, split):
            info = self.prepared.cases[case]
            if not info.has_label:
                continue
            scores[case] = score_case(
                info.name,
                predict(case),
                self.prepared.label(case),
                self.task,
                spacing=info.spacing,
                unit=info.distance_unit,
                surface=surface,
            )
        pseudo = self._pseudo_quality()
        if split == "test":
            self._keep_scores(list(scores.values()), split)
            self._keep_overlays(scores, predict)
        return {**summed(scores.values()), **pseudo, "cases": float(len(scores))}

    def _pseudo_quality(self) -> dict[str, float]:
        """Pseudo-labels against hidden masks, where an unlabeled site has them on disk."""
        self.data.load_stored()
        parts = []
        for case in self.data.unlabeled:
            stored = self._pseudo_label(case)
            if self.prepared.cases[case].has_label and stored is not None:
                truth = np.asarray(self.prepared.label(case))
                parts.append(pseudo_label_sums(*stored, truth, self.task))
        return add_sums(parts)

    def _pseudo_label(self, case: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the stored pseudo-label and trust mask [F, *S] in the task's classes, if any."""
        stored = self.data.stored_maps(case)
        if "pseudo" not in stored:
            return None
        trust = stored.get("trust", np.ones_like(stored["pseudo"]))
        return in_task(stored["pseudo"], trust, self.trained_task, self.task)

    def _keep_scores(self, scores: Sequence[CaseScore], split: str) -> None:
        lines = [json.dumps({"split": split, **asdict(score)}) for score in scores]
        write_atomically(self.state / "cases.jsonl", ("\n".join(lines) + "\n").encode())

    def _keep_overlays(
        self, scores: Mapping[int, CaseScore], predict: Callable[[int], np.ndarray]
    ) -> None:
        """Draw a few cases for people at the site; what fails here must not cost the scores."""
        from fedssl.report.overlays import OverlaySource, save_overlays

        source = OverlaySource(
            prepared=self.prepared,
            task=self.task,
            predict=predict,
            evaluated=self.split.test,
            dice={case: score.dice for case, score in scores.items()},
            unlabeled=self.data.unlabeled,
            pseudo=self._pseudo_label,
        )
        try:
            save_overlays(self.state, source, count=self.run.evaluate.overlays)
        except Exception:
            log.exception("Site %s: overlays are not written.", self.spec.name)
