"""What goes wrong ends with a reason and a true exit status, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from loopback_processes import (
    FEDSSL,
    ROLES,
    ROOT,
    SITE,
    TASK,
    assignments,
    deploy,
    digest,
    family,
    fedssl_run,
    living,
    marked_with,
    results,
    survivors,
    wait_until,
)
from rich.console import Console

from fedssl.app_config import stage_app
from fedssl.cli.superlink import superlink
from fedssl.config import Scalar, flatten
from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.progress import ConsoleProgress

pytestmark = [pytest.mark.federation, pytest.mark.timeout(1500)]


def test_a_wrong_number_of_nodes_is_one_clear_error(
    tiny: dict[str, Scalar], tmp_path: Path
) -> None:
    config = flatten(load_config({**tiny, "out": str(tmp_path / "out")}))
    nodes: dict[str, Scalar] = {"num-supernodes": 2, "client-resources-num-cpus": 1}
    with superlink(simulation=True) as link:
        number = link.submit(stage_app(tmp_path / "app"), config, nodes)
        log = "".join(link.follow(number))
        end = link.status(number)
    assert end.status == "finished:failed"
    for text in (end.details, log):
        assert "simulates 2 nodes" in text
        assert "has 3 sites" in text
        assert '--federation-config "num-supernodes=3 client-resources-num-cpus=1"' in text


def test_an_unknown_key_is_refused_when_the_run_is_submitted(
    tiny: dict[str, Scalar], tmp_path: Path
) -> None:
    done = fedssl_run({**tiny, "lerning-rate": 1}, tmp_path / "out")
    assert done.returncode == 1
    assert "lerning-rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_simulated_site_without_data_fails_the_run_with_its_reason(
    tiny: dict[str, Scalar], tmp_path: Path
) -> None:
    broken = '[[site]]\nname = "east"\nrole = "unlabeled"\npath = "not there"\n'
    north = SITE.format(name="north", role="labeled", look=0, extra="")
    (tmp_path / "federation.toml").write_text(TASK + north + broken)
    flat = {**tiny, "federation": str(tmp_path / "federation.toml")}
    done = fedssl_run(flat, tmp_path / "out")
    assert done.returncode == 1
    assert "finished:failed" in done.stderr
    assert "DataError" in done.stderr
    assert str(tmp_path / "not there") in done.stderr
    assert done.stdout.count("Traceback") == 1  # the site's own; its log is the run's log here
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_interrupted_run_leaves_nothing_behind_and_can_be_resumed(
    tiny: dict[str, Scalar], tmp_path: Path
) -> None:
    flat: dict[str, Scalar] = {**tiny, "method": "denoise", "denoise.passes": 2}
    flat |= {"denoise.warmup-rounds": 1, "denoise.refresh": 2, "rounds": 400}
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEDSSL_TEST": str(tmp_path)}
    with subprocess.Popen(
        [*FEDSSL, "run", "--out", str(out), *assignments(flat)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores SIGINT, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- one thread
    ) as process:
        lines = out / "rounds.jsonl"
        wait_until(lambda: lines.exists() and len(lines.read_text().splitlines()) >= 2, 400)
        everybody = family(process.pid)
        assert len(everybody) > 5  # SuperLink, SuperExec, Ray and its agents, ...
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "--resume" in error
    assert survivors(everybody, patience=10) == []
    assert marked_with(f"FEDSSL_TEST={tmp_path}") == []
    done = len(lines.read_text().splitlines())
    assert done < 400
    flat["rounds"] = done + 2
    resumed = fedssl_run(flat, out, "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    straight = tmp_path / "straight"
    simulate(load_config(flat), straight, progress=ConsoleProgress(Console(quiet=True)))
    assert digest(out) == digest(straight)


def test_a_run_whose_launcher_is_killed_leaves_nothing_behind(
    tiny: dict[str, Scalar], tmp_path: Path
) -> None:
    mark = f"FEDSSL_TEST={tmp_path}"
    with subprocess.Popen(
        [*FEDSSL, "run", "--out", str(tmp_path / "out"), *assignments(tiny)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEDSSL_TEST": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: len(titled_by_ray(family(process.pid))) >= 2, 300)
        everybody = family(process.pid)
        process.kill()
    assert survivors(everybody, patience=60) == []
    wait_until(lambda: marked_with(mark) == [], 60)


def titled_by_ray(processes: set[tuple[int, int]]) -> list[int]:
    """Return those whose title Ray has set: their environment cannot be read any more."""
    return [process for process, title in living(processes) if title.startswith("ray::")]


@pytest.mark.slow
def test_a_deployed_site_that_fails_keeps_its_paths_to_itself(
    tiny: dict[str, Scalar], federation: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "scans of Jane Doe"
    table = f'[[site]]\nname = "east"\nrole = "unlabeled"\npath = "{secret}"\n'
    (tmp_path / "east.toml").write_text(TASK + table)
    files = {"north": federation.with_name("north.toml"), "east": tmp_path / "east.toml"}
    flat = {**tiny, "method": "denoise", "rounds": 1, "denoise.warmup-rounds": 0}
    flat |= {"cache-dir": "", "round-timeout": 60.0}
    with deploy(files, tmp_path / "nodes") as running:
        end, log = running.run(flat, tmp_path / "out")
        node_log = running.node_log("east")
    assert end.status == "finished:failed"
    assert "0 unlabeled sites, but min-unlabeled = 1" in end.details
    assert "cannot take part: DataError: " in log
    assert "details are in the site's own log" in log
    assert "Jane" not in log + end.details
    assert "Traceback" in node_log
    assert str(secret) in node_log


@pytest.mark.slow
def test_a_killed_site_is_missed_and_the_run_goes_on_without_it(
    tiny: dict[str, Scalar], federation: Path, tmp_path: Path
) -> None:
    files = {name: federation.with_name(f"{name}.toml") for name in ROLES}
    flat = {**tiny, "rounds": 2, "cache-dir": "", "min-labeled": 1, "round-timeout": 45.0}
    with deploy(files, tmp_path / "nodes") as running:
        out = tmp_path / "out"
        config = flatten(load_config({**flat, "out": str(out)}))
        number = running.link.submit(stage_app(tmp_path / "app"), config, {})
        lines = running.link.follow(number)
        log = ""
        for line in lines:
            log += line
            if line.startswith("fedavg: 2 rounds, seed"):  # all have described themselves
                running.nodes["south"].kill()
        end = running.link.status(number)
    assert end.completed, end.details + log
    assert "site south: " in log
    assert results(out)["sites"]["south"]["cases"] == 0
    assert results(out)["sites"]["north"]["cases"] > 0
