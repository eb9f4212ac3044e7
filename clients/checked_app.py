"""One message at a site: Flower's ClientApp process, with the bundle checked before it is opened.

    python -P -m clients.checked_app  < order

The order comes as JSON through stdin, where no other user sees the token. Little is imported
before Flower's process starts: a task that gives no sign of life within 30 s is void.

Flower 1.41 has no hook for this. Its process pulls the bundle, unpacks it and imports the app, in
this order; the three functions that do so are wrapped here. A Flower without them is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from clients.acceptance import Accept, BundleRefusedError, require_accepted
from fedssl.fingerprint import PACKAGES

__all__ = ["CheckedInstall", "guard", "main"]

SEAMS: Final = ("pull_task_input", "install_from_fab", "get_load_client_app_fn")


class CheckedInstall:
    """Lets Flower unpack and import what the site accepts, and nothing else.

    Args:
        accept: what the site accepts.
        apps: folder for accepted apps, each under its full digest.
        flower: the module of Flower's ClientApp process, unchanged.
    """

    def __init__(self, accept: Accept, apps: Path, flower: ModuleType) -> None:
        self._accept, self._apps = accept, apps
        self._pull: Callable[[Any], tuple[Any, Any, Any, Any]] = flower.pull_task_input
        self._install: Callable[..., Path] = flower.install_from_fab
        self._loader: Callable[..., Callable[..., Any]] = flower.get_load_client_app_fn
        self._run: Any = None
        self._fab: Any = None
        self._installed: Path | None = None

    def pull_task_input(self, client: Any) -> tuple[Any, Any, Any, Any]:
        """Pull as Flower does, and remember what was announced."""
        message, context, run, fab = self._pull(client)
        self._run, self._fab = run, fab
        return message, context, run, fab

    def install_from_fab(self, content: bytes, **options: Any) -> Path:
        """Unpack an accepted bundle into a folder of its own.

        Raises:
            BundleRefusedError: the site does not accept it, or it is not what was announced.
        """
        digest = require_accepted(content, self._accept)
        # Flower finds an app by the announced digest, of which it uses eight digits.
        for announced in (self._fab.hash_str, self._run.fab_hash):
            if announced != hashlib.sha256(content).hexdigest():
                raise BundleRefusedError(
                    f"The bundle has the sha256 {digest}, but was announced as {announced}."
                )
        home = self._apps / digest
        complete = home / "complete"
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
        os.environ["FLWR_HOME"] = str(home)
        self._installed = self._install(content, **options)
        complete.touch()
        return self._installed

    def get_load_client_app_fn(self, **options: Any) -> Callable[[str, str, str], Any]:
        """Return Flower's loader, for the app that was just unpacked and no other."""
        load = self._loader(**options)

        def checked(fab_id: str, fab_version: str, fab_hash: str) -> Any:
            from flwr.common.config import get_project_dir

            app = get_project_dir(fab_id, fab_version, fab_hash)
            if self._installed is None or app.resolve() != self._installed.resolve():
                raise BundleRefusedError(
                    f"The coordinator asks for the app {fab_id!r} {fab_version!r}, which is not "
                    "the bundle that this site has checked."
                )
            _forget_own_modules()
            return load(fab_id, fab_version, fab_hash)

        return checked


def guard(accept: Accept, apps: Path, flower: ModuleType) -> CheckedInstall:
    """Put the checks into Flower's ClientApp process.

    Raises:
        BundleRefusedError: this Flower works in another way, so nothing could be checked.
    """
    missing = [name for name in SEAMS if not callable(getattr(flower, name, None))]
    if missing:
        raise BundleRefusedError(
            f"This version of Flower has no {', '.join(missing)}; the bundle could not be checked, "
            "so nothing is run. Install the version that fedssl asks for."
        )
    checked = CheckedInstall(accept, apps, flower)
    for name in SEAMS:
        setattr(flower, name, getattr(checked, name))
    return checked


def _forget_own_modules() -> None:
    """Let the app import its own copy of our packages, not the launcher's."""
    for name in [n for n in sys.modules if n.partition(".")[0] in PACKAGES]:
        del sys.modules[name]


def main() -> None:
    """Run one task."""
    order = json.load(sys.stdin)
    accept = order["accept"]
    from flwr.supernode.runtime import run_clientapp as flower

    policy: Accept = tuple(accept) if isinstance(accept, list) else accept
    guard(policy, Path(order["apps"]), flower)
    flower.run_clientapp(
        order["runtime_api"], order["token"], insecure=True, parent_pid=order["parent"]
    )


if __name__ == "__main__":
    main()
