"""`make demo`: FedAvg on labeled sites alone, then `denoise` twice, each through `flwr run`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RUNS = {
    "fedavg": "FedAvg, labeled only",
    "denoise": "denoise",
    "denoise-labeled": "denoise, labeled knowledge",
}


def main(out: Path) -> int:
    """Run the demo into `out`, print Dice per site and the gain; return the exit status."""
    console = Console(highlight=False)
    results: dict[str, dict[str, Any]] = {}
    for name, title in RUNS.items():
        console.rule(title)
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "fedssl.cli", "run", "--out", str(folder)]
        command += ["--config", str(HERE / f"{name}.toml")]
        status = subprocess.run(command, check=False).returncode  # noqa: S603 -- our own arguments
        if status != 0:
            console.print(f"The run {name!r} failed; its log is above.")
            return status
        results[name] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    console.rule("Dice on the test split, mean over disc and cup")
    console.print(_table(results))
    for name, title in list(RUNS.items())[1:]:
        gain = _unlabeled_mean(results[name]) - _unlabeled_mean(results["fedavg"])
        console.print(f"{title}: {gain:+.3f} Dice at the unlabeled sites over FedAvg.")
    return 0


def _dice(result: dict[str, Any], site: str) -> float:
    values = list(result["sites"][site]["dice"].values())
    return float(sum(values) / len(values))


def _unlabeled_mean(result: dict[str, Any]) -> float:
    sites = [n for n, s in result["sites"].items() if s["role"] == "unlabeled"]
    return sum(_dice(result, n) for n in sites) / len(sites)


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table()
    for column in ("site", "role", *RUNS.values()):
        table.add_column(column, justify="left" if column in ("site", "role") else "right")
    for site, entry in results["fedavg"]["sites"].items():
        cells = [f"{_dice(results[name], site):.3f}" for name in RUNS]
        table.add_row(site, entry["role"], *cells)
    return table


if __name__ == "__main__":
    sys.exit(main(Path("runs/demo")))
