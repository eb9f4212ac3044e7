"""`python -m fedssl.deploy.health URL [CA]`: exit status 0 if a service answers 200."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

__all__ = ["healthy", "main"]

TIMEOUT = 4.0


def healthy(url: str, root_certificates: str = "") -> bool:
    """Whether a URL answers 200 within a few seconds, directly and not through a proxy.

    Args:
        url: http or https.
        root_certificates: PEM file of the authority to trust; empty: the system's.
    """
    context = ssl.create_default_context(cafile=root_certificates or None)
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=TIMEOUT) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def main(arguments: Sequence[str]) -> int:
    """Return the exit status for command-line arguments."""
    if not arguments:
        return 2
    return 0 if healthy(*arguments[:2]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
