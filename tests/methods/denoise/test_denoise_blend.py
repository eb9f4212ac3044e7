"""`denoise`: how its server blends the labeled and the unlabeled sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from denoise_runs import STAGE, UPLOADS, Start, rule

from fedssl.config import Scalar
from fedssl.functional.averaging import weighted_average
from fedssl.types import Arrays, Upload


def test_mu_1_is_fedavg_over_the_labeled_sites_bit_for_bit(start: Start):
    assert start(keys={"denoise.mu": 1.0}).digest == start("fedavg").digest
    assert start(keys={"denoise.mu": 0.9}).digest != start("fedavg").digest


def test_without_unlabeled_sites_denoise_is_fedavg_bit_for_bit(start: Start):
    roles = {"north": "labeled", "east": "labeled"}
    assert start(roles=roles).digest == start("fedavg", roles=roles).digest


def poisoned(upload: Upload) -> Upload:
    """Put one NaN into the unlabeled site's upload."""
    if upload.site != "west" or not upload.weights:
        return upload
    weights = {name: value.clone() for name, value in upload.weights.items()}
    weights["head.bias"][0] = torch.nan
    return replace(upload, weights=weights)


@pytest.mark.parametrize("mu", [0.7, 1.0])
def test_an_upload_with_nan_is_refused_and_the_labeled_sites_carry_the_round(
    mu: float, start: Start, caplog: pytest.LogCaptureFixture
):
    run = start(keys={"denoise.mu": mu}, change=poisoned)
    refused = [r.getMessage() for r in caplog.records if "Refused" in r.getMessage()]
    assert refused == ["Refused: Site 'west': 'head.bias' holds NaN or infinity."] * 2
    assert run.digest == start("fedavg").digest
    assert [list(r["sites"]) for r in run.rounds] == [["north"]] * 3
    assert [r["rule"] for r in run.rounds] == [{"mu": 1.0}] * 3


def merged(keys: Mapping[str, Scalar], uploads: list[Upload], round_: int = 9) -> Arrays:
    return rule(keys).merge(round_, STAGE, uploads[0].weights, uploads)


def test_mu_auto_is_fedavg_over_all_sites():
    expected = weighted_average([u.weights for u in UPLOADS], [10, 20, 30, 40])
    torch.testing.assert_close(
        merged({"denoise.mu": "auto"}, UPLOADS)["w"], expected["w"], atol=1e-6, rtol=0
    )


def test_the_groups_are_averaged_by_samples_and_blended_with_mu():
    a, b, c, d = (u.weights["w"].double() for u in UPLOADS)
    xi, psi = (a + 2 * b) / 3, (3 * c + 4 * d) / 7
    result = merged({"denoise.mu": 0.6}, UPLOADS)
    torch.testing.assert_close(result["w"], (0.6 * xi + 0.4 * psi).float())
    assert result["steps"] == 1  # a counter: the first labeled site's


def test_unlabeled_sites_may_count_the_same_whatever_they_hold():
    a, b, c, d = (u.weights["w"].double() for u in UPLOADS)
    keys = {"denoise.mu": 0.6, "denoise.weigh-unlabeled-by": "sites"}
    expected = 0.6 * (a + 2 * b) / 3 + 0.4 * (c + d) / 2
    torch.testing.assert_close(merged(keys, UPLOADS)["w"], expected.float())


def test_unlabeled_sites_may_be_weighed_by_what_they_retain():
    uploads = [*UPLOADS[:3], replace(UPLOADS[3], metrics={"retained": 0.0})]
    keys = {"denoise.mu": 0.6, "denoise.weight-by-retained": True}
    a, b, c = (u.weights["w"].double() for u in UPLOADS[:3])
    torch.testing.assert_close(
        merged(keys, uploads)["w"], (0.6 * (a + 2 * b) / 3 + 0.4 * c).float()
    )
    none = [*UPLOADS[:2], *(replace(u, metrics={"retained": 0.0}) for u in UPLOADS[2:])]
    assert torch.equal(merged(keys, none)["w"], merged({"denoise.mu": 1.0}, UPLOADS)["w"])


def test_a_site_that_skipped_every_step_does_not_dilute_the_average():
    a, b, c = (u.weights["w"].double() for u in UPLOADS[:3])
    idle, busy = {"steps_skipped": 10.0}, {"steps_skipped": 9.0, "loss": 0.3}
    uploads = [*UPLOADS[:2], replace(UPLOADS[2], metrics=busy), replace(UPLOADS[3], metrics=idle)]
    keys = {"denoise.mu": 0.6}
    expected = 0.6 * (a + 2 * b) / 3 + 0.4 * c
    torch.testing.assert_close(merged(keys, uploads)["w"], expected.float())
    none = [*UPLOADS[:2], *(replace(u, metrics=idle) for u in UPLOADS[2:])]
    assert torch.equal(merged(keys, none)["w"], merged({"denoise.mu": 1.0}, UPLOADS)["w"])


@pytest.mark.parametrize("retained", [-3.0, 7.0])
def test_a_site_cannot_report_its_way_to_another_weight(retained: float):
    keys = {"denoise.mu": 0.6, "denoise.weight-by-retained": True}
    uploads = [*UPLOADS[:3], replace(UPLOADS[3], metrics={"retained": retained})]
    bound = [*UPLOADS[:3], replace(UPLOADS[3], metrics={"retained": float(retained > 0)})]
    assert torch.equal(merged(keys, uploads)["w"], merged(keys, bound)["w"])


def test_mu_falls_from_1_over_the_ramp_after_the_warm_up():
    falling = rule({"denoise.mu": 0.6, "denoise.mu-ramp": 4, "denoise.warmup-rounds": 10})
    seen = []
    for round_ in (10, 11, 12, 14, 20):
        falling.merge(round_, STAGE, UPLOADS[0].weights, UPLOADS)
        seen.append(falling.metrics()["mu"])
    assert seen == pytest.approx([1.0, 0.9, 0.8, 0.6, 0.6])
