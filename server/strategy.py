"""Flower's strategy interface over fedssl's federation loop. No arithmetic: rules merge weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedssl.config import RunConfig
from fedssl.coordinator import run_federation
from fedssl.errors import ConfigError, UploadError
from fedssl.report.progress import run_progress
from fedssl.types import Arrays, Download, Upload
from fedssl.wire import Transfer, pack_download, unpack_upload
from server.envelope import Envelope
from server.exchange import GridExchange

__all__ = ["FederationStrategy"]

log = logging.getLogger("flwr")


class FederationStrategy(Strategy):
    """Runs a method's stages over a grid.

    Flower's own loop sends one model to all nodes once per round. A method here plans its own
    stages, with extras that differ from site to site, and a server rule merges them. So `start`
    hands over to `run_federation`, and for every exchange `GridExchange` asks the hooks: configure
    makes messages of the stage's envelopes, aggregate makes uploads of the replies.

    Args:
        run: the run's configuration.
        folder: run folder.
    """

    def __init__(self, run: RunConfig, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self.envelopes: Sequence[Envelope] = ()
        self.uploads: list[Upload] = []

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the federation to its end and leave a complete run folder.

        Args:
            grid: Flower's way to the nodes.
            initial_arrays: must be empty; the first weights follow from `seed`.
            num_rounds: replaces `rounds` of the run's configuration.
            timeout: replaces its `round-timeout`, in seconds.
            train_config: must be empty; sites read the run's configuration.
            evaluate_config: must be empty, too.
            evaluate_fn: must be None; the coordinator has no images.

        Returns:
            The mean Dice of the last round; weights and the rest lie in the run folder.

        Raises:
            FederationError: too few sites take part.
        """
        if initial_arrays or train_config or evaluate_config or evaluate_fn:
            raise ConfigError(
                "A fedssl strategy starts from 'seed' or a checkpoint ('resume') and is configured "
                "by the run config; initial_arrays, *_config and evaluate_fn have to be empty."
            )
        run = self.run.model_copy(update={"rounds": num_rounds, "round_timeout": timeout})
        self.summary()
        exchange = GridExchange(grid, run, self)
        progress = run_progress(run, self.folder)
        out = run_federation(run, exchange, self.folder, progress=progress)
        dice = json.loads(out.results.read_text(encoding="utf-8"))["mean_dice"]
        metrics = MetricRecord({} if dice is None else {"mean-dice": float(dice)})
        return Result(evaluate_metrics_clientapp={num_rounds: metrics})

    def summary(self) -> None:
        """Log what is about to run."""
        log.info("%s: %d rounds, run folder %s", self.run.method, self.run.rounds, self.folder)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of the open stage.

        Args:
            server_round: counts from 1, as in Flower.
            arrays: the stage's weights, packed once; all messages share them.
            config: not used; a download holds everything.
            grid: not used; the envelopes hold the addresses.
        """
        common = self.envelopes[0].download.weights
        for envelope in self.envelopes:
            content = _packed(envelope.download, common, arrays, self.run.transfer)
            yield envelope.message(content)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Read the uploads out of the replies, into `uploads`; the server rule merges them.

        A reply that is malformed or speaks for another site is logged and left out.
        """
        names = {e.node: e.download.site for e in self.envelopes}
        self.uploads = []
        for reply in replies:
            try:
                self.uploads.append(_upload(reply, names.get(reply.metadata.src_node_id, "")))
            except UploadError as error:
                log.error("%s", error)
        return None, MetricRecord({"replies": len(self.uploads)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of an evaluation; see `configure_train`."""
        return self.configure_train(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Read the uploads out of the replies; see `aggregate_train`."""
        return self.aggregate_train(server_round, replies)[1]


def _packed(
    download: Download, common: Arrays, packed: ArrayRecord, transfer: Transfer
) -> RecordDict:
    """Pack a download; weights that are the very tensors in `common` are not packed again."""
    ours = download.weights
    if ours.keys() != common.keys() or any(ours[k] is not common[k] for k in ours):
        return pack_download(download, transfer)
    content = pack_download(replace(download, weights={}), transfer)
    content["weights"] = packed
    return content


def _upload(reply: Message, site: str) -> Upload:
    upload = unpack_upload(reply.content, f"site {site!r}")
    if upload.site != site:
        raise UploadError(f"Upload of site {site!r} is refused: it says it is {upload.site!r}.")
    return upload
