"""The labeled client: a site whose images have masks trains on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import Context, Message

from clients.site import answer
from fedssl.errors import DataError

if TYPE_CHECKING:
    from fedssl.site import Site

__all__ = ["has_masks", "train"]


def train(message: Message, context: Context) -> Message:
    """Run one stage of the method's labeled objective and reply with what it may upload."""
    return answer(message, context, role="labeled", checks=(has_masks,))


def has_masks(site: Site) -> None:
    """Refuse to train as a labeled site without a mask among the training images.

    Raises:
        DataError: there is none.
    """
    if not site.data.labeled:
        raise DataError(
            f"Site {site.spec.name!r} has the role {site.spec.role} but no training image with a "
            "mask. Add masks, or make the site unlabeled."
        )
