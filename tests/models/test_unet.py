from __future__ import annotations

import pytest
import torch
from torch import nn

from fedssl.config import ModelConfig
from fedssl.errors import ConfigError, DataError
from fedssl.functional.averaging import weights_sha256
from fedssl.models import (
    SegmentationModel,
    UNet,
    build_unet,
    channels_last,
    norm_names,
    set_stochastic,
    shared_parts,
    stochastic,
)
from fedssl.models.unet import channel_plan
from fedssl.types import Output, Task

NORMS = ["instance", "group", "batch"]


def small(norm="instance", dims=2, **kwargs):
    torch.manual_seed(0)
    return UNet(dims, 2, 3, **({"width": 4, "depth": 2, "norm": norm} | kwargs))


def image(dims=2, seed=0, batch=2):
    size = (16, 24) if dims == 2 else (8, 16, 8)
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dims", [2, 3])
def test_logits_and_features_have_the_size_of_the_image(dims, norm):
    model = small(norm, dims)
    assert isinstance(model, SegmentationModel)
    x = image(dims)
    out = model(x)
    assert out.logits.shape == (2, 3, *x.shape[2:])
    assert out.features.shape == (2, model.feature_channels, *x.shape[2:])


def test_logits_are_the_last_convolution_of_the_features_after_dropout():
    model = small(dropout_head=0.5)
    model.train()
    out = model(image())
    assert (out.features == 0).float().mean() > 0.3
    torch.testing.assert_close(model.head(out.features), out.logits)
    assert model.head.kernel_size == (1, 1)


def test_every_parameter_is_trained():
    model = small()
    model(image()).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_channels_double_per_level_up_to_sixteen_times_the_width():
    assert channel_plan(16, 4) == (16, 32, 64, 128, 256)
    assert channel_plan(4, 6) == (4, 8, 16, 32, 64, 64, 64)


def test_a_deep_network_with_capped_channels_runs():
    model = small(width=2, depth=6)
    assert model.stride == 64
    assert model(torch.randn(1, 2, 64, 128)).logits.shape == (1, 3, 64, 128)


def test_sizes_that_do_not_divide_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"\(18, 24\).*multiples of 4.*\(20, 24\)"):
        small()(torch.randn(1, 2, 18, 24))


def test_instance_norm_refuses_an_image_that_shrinks_to_one_pixel():
    with pytest.raises(DataError, match=r"\(4, 4\).*instance norm.*at least 8"):
        small()(torch.randn(2, 2, 4, 4))
    assert small()(torch.randn(2, 2, 4, 8)).logits.shape == (2, 3, 4, 8)
    assert small("group")(torch.randn(2, 2, 4, 4)).logits.shape == (2, 3, 4, 4)


def test_an_unknown_norm_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"model\.norm"):
        small("layer")


@pytest.mark.parametrize("norm", NORMS)
def test_only_dropout_is_stochastic(norm):
    model = small(norm, dropout_bottleneck=0.0, dropout_head=0.0)
    with stochastic(model):
        assert torch.equal(model(image()).logits, model(image()).logits)
    model = small(norm)
    model.eval()
    assert torch.equal(model(image()).logits, model(image()).logits)
    with stochastic(model):
        assert not torch.equal(model(image()).logits, model(image()).logits)


@pytest.mark.parametrize("place", ["dropout_bottleneck", "dropout_head"])
def test_each_dropout_place_alone_makes_passes_differ(place):
    off = {"dropout_bottleneck": 0.0, "dropout_head": 0.0}
    model = small(**(off | {place: 0.5}))
    set_stochastic(model)
    assert not torch.equal(model(image()).logits, model(image()).logits)


def test_stochastic_passes_repeat_with_torch_seed():
    model = small()
    set_stochastic(model)
    torch.manual_seed(3)
    first = model(image()).logits
    torch.manual_seed(3)
    assert torch.equal(model(image()).logits, first)


def test_stochastic_mode_leaves_normalisation_in_eval_mode():
    model = small("batch")
    set_stochastic(model)
    trained = {type(m) for m in model.modules() if m.training}
    assert trained == {nn.Dropout2d, nn.Dropout}


def test_batch_statistics_are_used_but_running_ones_stay():
    off = {"dropout_bottleneck": 0.0, "dropout_head": 0.0}
    model = small("batch", **off)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = image(seed=1) * 3 + 5
    model.eval()
    running = model(x).logits
    with stochastic(model, bn_batch=True):
        batch = model(x).logits
        both = model(torch.cat((x, image() - 9))).logits[:2]
    assert not torch.allclose(running, batch)
    assert not torch.allclose(batch, both)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_leaving_stochastic_mode_restores_every_module_even_after_an_error():
    model = small("batch")
    model.train()
    model.encoder[0].eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), stochastic(model, bn_batch=True):
        raise RuntimeError("stop")
    assert [m.training for m in model.modules()] == modes
    model.train()
    before = model.state_dict()["encoder.0.0.adn.N.running_mean"].clone()
    model(image() + 3)
    assert not torch.equal(model.state_dict()["encoder.0.0.adn.N.running_mean"], before)


def test_the_shared_part_is_the_whole_state():
    model = small("batch")
    assert shared_parts(model) == {"shared": list(model.state_dict())}


@pytest.mark.parametrize(("norm", "entries"), [("instance", 2), ("group", 2), ("batch", 5)])
def test_norm_names_are_those_of_normalisation_modules(norm, entries):
    model = small(norm)
    names = norm_names(model)
    assert len(names) == entries * 10  # 2 per level of encoder (3 levels) and decoder (2)
    assert set(names) < set(model.state_dict())
    others = set(model.state_dict()) - set(names)
    assert all(model.state_dict()[n].ndim == 4 or n.endswith(".bias") for n in others)
    assert norm_names(nn.BatchNorm2d(3, affine=False, track_running_stats=False)) == []
    assert norm_names(nn.GroupNorm(1, 3)) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("mode", "output", "dims", "channels"),
    [("2d", "exclusive", 2, 3), ("2.5d", "nested", 2, 2), ("3d", "exclusive", 3, 3)],
)
def test_the_builder_follows_configuration_and_task(mode, output, dims, channels):
    task = Task("t", ("background", "disc", "cup"), mode, Output(output), channels=3)
    config = ModelConfig(width=4, depth=1, norm="batch", dropout_bottleneck=0.25, dropout_head=0)
    model = build_unet(config, task)
    assert model.feature_channels == 4
    assert model.stride == 2
    assert model.dropout.p == 0.25
    assert model.head_dropout.p == 0
    out = model(torch.randn(1, 3, *(8,) * dims))
    assert out.logits.shape == (1, channels, *(8,) * dims)


def test_equal_seeds_build_equal_networks():
    a, b = small().state_dict(), small().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_weights_survive_the_way_through_a_state_dict():
    model, other = small("batch"), small("batch")
    for p in other.parameters():
        p.data += 1
    other.load_state_dict(model.state_dict())
    model.eval()
    other.eval()
    assert torch.equal(model(image()).logits, other(image()).logits)


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_changes_the_layout_and_nothing_else(dims):
    plain, last = small(dims=dims).eval(), small(dims=dims).eval()
    channels_last(last)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    kernels = [p for p in last.parameters() if p.ndim == dims + 2]
    assert kernels
    assert all(p.is_contiguous(memory_format=layout) for p in kernels)
    assert weights_sha256(last.state_dict()) == weights_sha256(plain.state_dict())
    x = image(dims)
    torch.testing.assert_close(last(x).logits, plain(x).logits, atol=1e-5, rtol=1e-5)
    assert last.state_dict().keys() == plain.state_dict().keys()
