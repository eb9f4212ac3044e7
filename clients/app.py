"""The ClientApp: one app for every site; the action of a message names the role it is meant for.

| message           | who answers     | what                                    |
|-------------------|-----------------|-----------------------------------------|
| `query.describe`  | every site      | role, counts, task, versions            |
| `evaluate`        | every site      | the global model's score on a split     |
| `train.labeled`   | labeled sites   | a stage of the method, supervised       |
| `train.unlabeled` | unlabeled sites | a stage of the method, pseudo-labels    |
| `train.mixed`     | mixed sites     | a stage of the method, both             |

Coordinator and sites import this module, so it stays light: torch is imported by the handlers.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import labeled, unlabeled
from clients.site import answer

__all__ = ["app"]

app = ClientApp()
app.train("labeled")(labeled.train)
app.train("unlabeled")(unlabeled.train)


@app.train("mixed")
def train_mixed(message: Message, context: Context) -> Message:
    """Train on images with and without masks in one stage, where the site is both."""
    return answer(message, context, role="mixed", checks=(labeled.has_masks,))


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say which site this is: name, role, counts, task, versions and code fingerprint."""
    return answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the global model on the site's own masks; sums per class go up, never cases."""
    return answer(message, context)
