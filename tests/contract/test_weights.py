"""What a method does to the weights: reproducible, complete, finite, and nothing at rate 0."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import Configure, Finished

from fedssl.config import RunConfig, Scalar
from fedssl.federation import load_federation
from fedssl.functional.averaging import all_finite, weights_sha256
from fedssl.methods import METHODS, method_of
from fedssl.models import SegmentationModel
from fedssl.seeds import derive_seed, seeded
from fedssl.types import Arrays

Run = Callable[..., Finished]


def initial_model(run: RunConfig) -> SegmentationModel:
    """Build the network as a run begins with it."""
    method = method_of(run)
    task = method.task(load_federation(run).task)
    with seeded(derive_seed(run.seed, "init"), torch.device("cpu")):
        return method.build_model(run, task)


def shared(run: RunConfig) -> Arrays:
    model = initial_model(run)
    names = method_of(run).parts(model)["shared"]
    state = model.state_dict()
    return {name: state[name] for name in names}


def final(run: Finished) -> Arrays:
    loaded: Arrays = load_file(run.folder / "model.safetensors")
    return loaded


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    whole: Finished, configure: Configure, repeat: Run
):
    assert repeat(configure()).digest == whole.digest
    assert repeat(configure({"seed": 1})).digest != whole.digest


def test_the_order_in_which_sites_work_and_answer_does_not_matter(
    whole: Finished, configure: Configure, repeat: Run
):
    assert repeat(configure(), reverse=True).digest == whole.digest


def test_what_travels_as_flower_messages_gives_the_same_weights(
    whole: Finished, configure: Configure, repeat: Run
):
    assert repeat(configure(), wire=True).digest == whole.digest


def test_names_shapes_and_dtypes_survive_and_everything_is_finite(whole: Finished):
    before, after = shared(whole.run), final(whole)
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }
    assert weights_sha256(after) == whole.digest
    assert all_finite(after)
    for upload in whole.exchange.uploads:
        assert all_finite(upload.weights), upload.site
        assert all_finite(upload.knowledge), upload.site


def test_every_upload_is_accepted(whole: Finished):
    for record in whole.rounds:
        sent = {u.site for u in whole.exchange.trained if u.round == record["round"]}
        assert set(record["sites"]) == sent


def test_training_moves_the_weights(whole: Finished):
    before, after = shared(whole.run), final(whole)
    assert any(not torch.equal(before[name], after[name]) for name in before)


OWN_REJECTION: dict[str, dict[str, Scalar]] = {
    "denoise": {"denoise.eta": 1e-12},
    "reference": {
        "reference.min-pixels": 10**6,
        "reference.con-threshold": 1.0,
        "reference.mixed-from": "bank",
    },
    "pseudo_label": {"pseudo_label.threshold": 1.0},
    "fixmatch": {"fixmatch.threshold": 1.0},
    "unimatch": {"unimatch.threshold": 1.0},
    "fed_consist": {"fed_consist.threshold": 1.0},
    "fedmix": {"fedmix.agreement": 1.01},
}
"""Keys with which a method trusts nothing; others trust nothing where predicted quality counts."""


def test_where_every_pseudo_label_is_rejected_masks_alone_are_learned_from(
    variant: str, configure: Configure, repeat: Run
):
    if variant in METHODS and METHODS[variant].unlabeled is None:
        pytest.skip(f"{variant} makes no pseudo-labels")
    by_quality: dict[str, Scalar] = {"quality.guide": True, "quality.threshold": 1.0}
    done = repeat(configure(OWN_REJECTION.get(variant, by_quality)))
    sent = {(d.round, d.site): d.weights for d in done.exchange.downloads if d.stage == "train"}
    for record in done.rounds[-2:]:
        assert record["sites"]["west"]["steps_skipped"] == done.run.local_steps
        learned = {k for k in record["sites"]["south"] if k.startswith("loss/")}
        assert learned == {"loss/supervised"}
    for upload in (u for u in done.exchange.trained if u.site == "west" and u.round >= 2):
        received = sent[upload.round, "west"]
        assert all(torch.equal(v, received[name]) for name, v in upload.weights.items())
    assert all_finite(final(done))


def test_learning_rate_0_leaves_every_parameter(configure: Configure, repeat: Run):
    run = configure({"lr": 0.0})
    after = final(repeat(run))
    parameters = dict(initial_model(run).named_parameters())
    for name in after.keys() & parameters.keys():
        assert torch.equal(after[name], parameters[name].detach()), name


@pytest.mark.parametrize(
    "roles",
    [
        {"north": "labeled"},
        {"south": "mixed"},
        {"north": "labeled", "east": "labeled"},
        {"north": "labeled", "west": "unlabeled"},
        {"south": "mixed", "west": "unlabeled", "far": "unlabeled"},
    ],
    ids=lambda roles: "+".join(roles.values()),
)
def test_a_federation_may_lack_roles(roles: dict[str, str], configure: Configure, repeat: Run):
    run = repeat(configure({"rounds": 3}, roles))
    assert all_finite(final(run))
    assert len(run.rounds) == 3
    assert list(run.results["sites"]) == sorted(roles)
