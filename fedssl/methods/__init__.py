"""The registry of methods: a dict one can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedssl.config import RunConfig, parse_run_config
from fedssl.methods import (
    bcp,
    cbafed,
    cps,
    denoise,
    fed_consist,
    fedavg,
    fedbn,
    fedirm,
    fedmix,
    fedprox,
    fedsemiseg,
    fixmatch,
    ict,
    mc_net,
    mean_teacher,
    mutual,
    pseudo_label,
    quality,
    reference,
    rscfed,
    ua_mt,
    unimatch,
    urpc,
)
from fedssl.methods.base import Method
from fedssl.methods.quality_config import guide_config

__all__ = ["METHODS", "load_config", "method_of"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        fedavg.METHOD,
        fedprox.METHOD,
        fedbn.METHOD,
        denoise.METHOD,
        mutual.METHOD,
        reference.METHOD,
        quality.METHOD,
        pseudo_label.METHOD,
        mean_teacher.METHOD,
        ua_mt.METHOD,
        fixmatch.METHOD,
        cps.METHOD,
        ict.METHOD,
        mc_net.METHOD,
        urpc.METHOD,
        bcp.METHOD,
        unimatch.METHOD,
        fed_consist.METHOD,
        fedirm.METHOD,
        rscfed.METHOD,
        fedsemiseg.METHOD,
        fedmix.METHOD,
        cbafed.METHOD,
    )
}


def load_config(flat: Mapping[str, Any]) -> RunConfig:
    """Return the typed configuration of flat keys; raise one `ConfigError` with all problems."""
    run = parse_run_config(flat, {name: method.config for name, method in METHODS.items()})
    method_of(run).check(run)
    return run


def method_of(run: RunConfig) -> Method:
    """Return the run's method, guided by predicted quality if the run says so."""
    method = METHODS[run.method]
    if method is quality.METHOD or not guide_config(run).guide:
        return method
    return quality.guide(method)
