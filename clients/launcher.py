"""A site's SuperExec: starts one checked process per message, and nothing but ClientApps.

    python -P -m clients.launcher SITE_FILE RUNTIME_API SECRET_FILE

Flower's own SuperExec also starts agents, connectors and models that a coordinator asks for, whose
code no one has checked. This one asks the SuperNode for ClientApp tasks only.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flwr.supercore.runtime import RuntimeHttpClient

__all__ = ["launch_tasks", "main"]

log = logging.getLogger("flwr")

POLL: Final = 0.5
"""Seconds between looks for a task."""


def launch_tasks(client: RuntimeHttpClient, site_file: str, runtime_api: str) -> None:
    """Start a process for each task, until this process is ended.

    Args:
        client: connection to the SuperNode's runtime interface.
        site_file: says which code is accepted.
        runtime_api: `host:port` of that interface.
    """
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    running: list[subprocess.Popen[str]] = []
    while True:
        answer = client.AcquireTask(request)
        if answer.HasField("task") and answer.token:
            if answer.task.type == TaskType.CLIENT_APP:
                running.append(_start(answer.token, site_file, runtime_api))
            else:
                log.error("Refused a task of the type %r.", answer.task.type)
        running = [process for process in running if process.poll() is None]
        time.sleep(POLL)


def _start(token: str, site_file: str, runtime_api: str) -> subprocess.Popen[str]:
    # -P: the working directory must not come before the installed packages.
    command = [sys.executable, "-P", "-m", "clients.checked_app"]
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [*command, site_file, runtime_api, str(os.getpid())], stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(token)
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
        secret = Path(secret_file).read_bytes()
        launch_tasks(_connect(runtime_api, secret), site_file, runtime_api)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
