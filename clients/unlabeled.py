"""The unlabeled client: a site without masks trains on pseudo-labels of its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import Context, Message

from clients.site import answer
from fedssl.errors import DataError

if TYPE_CHECKING:
    from fedssl.site import Site

__all__ = ["has_images", "keeps_masks_closed", "train"]


def train(message: Message, context: Context) -> Message:
    """Run one stage of the method's unlabeled objective and reply with what it may upload."""
    return answer(message, context, role="unlabeled", checks=(has_images, keeps_masks_closed))


def has_images(site: Site) -> None:
    """Refuse to pseudo-label where no training image is left without a mask.

    Raises:
        DataError: every training image has a mask that is used.
    """
    if not site.data.unlabeled:
        raise DataError(
            f"Site {site.spec.name!r} has the role {site.spec.role} but no training image without "
            "a mask. Add images, or make the site labeled."
        )


def keeps_masks_closed(site: Site) -> None:
    """Refuse to train where a mask would be used although the site counts as unlabeled.

    Raises:
        DataError: training would open at least one mask.
    """
    if site.data.labeled:
        raise DataError(
            f"Site {site.spec.name!r} is unlabeled, but {len(site.data.labeled)} of its masks "
            "would be used in training. Make the site mixed or labeled."
        )
