"""Where a benchmark's numbers go, and what machine they are of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

__all__ = ["RESULTS", "machine", "write_results"]

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """Return what the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def write_results(name: str, settings: Mapping[str, object]) -> Path:
    """Write the numbers of some settings; those of others that are in the file stay."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for setting, numbers in settings.items():
        table[setting] = {"machine": machine(), "numbers": numbers}
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return path
