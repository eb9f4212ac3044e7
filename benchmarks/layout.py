"""`python -m benchmarks.layout`: what channels-last kernels and bfloat16 save of a training step.

The networks and patches of experiments/; forward, backward and optimizer on one thread, without
batches. The four settings of a network take turns, so that other work on the machine meets all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.results_file import write_results
from fedssl.config import ModelConfig
from fedssl.models import build_unet, channels_last
from fedssl.types import Task

NETWORKS = {
    "vessels": (Task("vessels", ("background", "vessel"), "2d", channels=3), (8, 3, 96, 96)),
    "atria": (Task("atria", ("background", "atrium"), "3d", channels=1), (2, 1, 32, 64, 64)),
}
"""Task and batch; the U-Net is 8 wide and 3 deep."""


def main() -> None:
    """Measure every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: measure(name, given.steps) for name in NETWORKS}
    for name, row in rows.items():
        print(name, ", ".join(f"{setting} {value}" for setting, value in row.items()))
    print(write_results("layout", rows))


def measure(name: str, steps: int) -> dict[str, float]:
    """Return CPU milliseconds of a step, and their ratios to contiguous kernels in fp32."""
    settings = {
        f"{layout}, {precision}": _stepper(name, layout == "channels-last", precision == "bf16")
        for precision in ("fp32", "bf16")
        for layout in ("contiguous", "channels-last")
    }
    spent: dict[str, list[float]] = {setting: [] for setting in settings}
    for step in range(steps + 2):
        for setting, train in settings.items():
            start = time.thread_time()
            train()
            if step >= 2:  # the first steps find cold caches
                spent[setting].append(time.thread_time() - start)
    medians = {setting: statistics.median(times) for setting, times in spent.items()}
    floor = medians["contiguous, fp32"]
    ratios = {f"{setting}, ratio": round(m / floor, 3) for setting, m in medians.items()}
    return {f"{setting}, ms": round(1e3 * m, 1) for setting, m in medians.items()} | ratios


def _stepper(name: str, last: bool, half: bool) -> Callable[[], None]:
    task, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build_unet(ModelConfig(width=8, depth=3), task)
    if last:
        channels_last(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batch = torch.randn(shape)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = model(batch).logits
        optimizer.zero_grad(set_to_none=True)
        logits.float().square().mean().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
