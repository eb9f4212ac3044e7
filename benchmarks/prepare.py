"""`python -m benchmarks.prepare`: how fast one core prepares images.

CPU seconds of one process are counted, so that other work on the machine does not matter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.results_file import write_results
from fedssl.cli.options import flat_keys, read_tables
from fedssl.config import RunConfig
from fedssl.data.prepare import PreparePlan, prepare
from fedssl.data.source import open_source
from fedssl.federation import load_federation
from fedssl.methods import load_config

SETTINGS = {
    "lgg": "experiments/lgg/common.toml",
    "la": "experiments/la/common.toml",
    "vessels": "experiments/vessels/common.toml",
}


def main() -> None:
    """Prepare every site of every setting into a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(SETTINGS), action="append")
    chosen = parser.parse_args().only or list(SETTINGS)
    torch.set_num_threads(1)
    rows = {name: measure(Path(SETTINGS[name])) for name in chosen}
    for name, row in rows.items():
        print(
            f"{name}: {row['cases']} cases in {row['cpu_seconds']:.1f} CPU s, "
            f"{row['cases_per_second']:.1f} cases/s, {row['read_mb_per_second']:.1f} MB/s of pixels"
        )
    print(write_results("prepare", rows))


def measure(path: Path) -> dict[str, float]:
    """Return the throughput of one setting."""
    tables = read_tables(path)
    tables.pop("grid", None)
    run: RunConfig = load_config(flat_keys(tables, path.parent))
    federation = load_federation(run)
    plan = PreparePlan.from_run(run, federation.task)
    cases = pixels = files = written = 0
    cpu = 0.0
    for site in federation.sites:
        source = open_source(site, federation.task)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            prepared = prepare(source, plan, Path(folder))
            cpu += time.process_time() - start
            written += sum(file.stat().st_size for file in prepared.folder.iterdir())
        for case in prepared.cases:
            voxels = 1
            for side in case.original_shape:
                voxels *= side
            pixels += 4 * voxels * case.channels
        files += sum(f.stat().st_size for f in Path(site.path).rglob("*") if f.is_file())
        cases += len(prepared.cases)
    return {
        "cases": cases,
        "cpu_seconds": round(cpu, 3),
        "cases_per_second": round(cases / cpu, 2),
        "file_mb_per_second": round(files / 1e6 / cpu, 2),
        "read_mb_per_second": round(pixels / 1e6 / cpu, 2),
        "written_mb_per_second": round(written / 1e6 / cpu, 2),
    }


if __name__ == "__main__":
    main()
