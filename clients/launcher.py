"""A site's SuperExec: starts one checked process per message, and nothing but ClientApps.

    python -P -m clients.launcher SITE_FILE RUNTIME_API SECRET_FILE

Flower's own SuperExec also starts agents, connectors and models that a coordinator asks for, whose
code no one has checked. This one asks the SuperNode for ClientApp tasks only.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedssl.deploy.site_file import load_node

if TYPE_CHECKING:
    from flwr.supercore.runtime import RuntimeHttpClient

__all__ = ["launch_tasks", "main"]

log = logging.getLogger("flwr")

POLL: Final = 0.5
"""Seconds between looks for a task."""


def launch_tasks(client: RuntimeHttpClient, order: Mapping[str, object]) -> None:
    """Start a process for each task, until this process is ended.

    Args:
        client: connection to the SuperNode's runtime interface.
        order: what `clients.checked_app` reads from stdin, but for the token.
    """
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    running: list[subprocess.Popen[str]] = []
    while True:
        answer = client.AcquireTask(request)
        if answer.HasField("task") and answer.token:
            if answer.task.type == TaskType.CLIENT_APP:
                running.append(_start({**order, "token": answer.token}))
            else:
                log.error("Refused a task of the type %r.", answer.task.type)
        running = [process for process in running if process.poll() is None]
        time.sleep(POLL)


def _start(order: Mapping[str, object]) -> subprocess.Popen[str]:
    # -P: the working directory must not come before the installed packages.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "clients.checked_app"], stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    return process


def _connect(runtime_api: str, secret: bytes) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    signed = SuperExecAuthHttpInterceptor(
        master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
    )
    return RuntimeHttpClient.from_server_address(
        runtime_api,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), signed],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def main() -> None:
    """Serve one SuperNode."""
    site_file, runtime_api, secret_file = sys.argv[1:4]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        node = load_node(Path(site_file))
        order = {
            "accept": node.accept_code,
            "apps": str(Path(node.state_dir) / "apps"),
            "runtime_api": runtime_api,
            "parent": os.getpid(),
        }
        launch_tasks(_connect(runtime_api, Path(secret_file).read_bytes()), order)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
