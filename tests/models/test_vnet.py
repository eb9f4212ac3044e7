from __future__ import annotations

import pytest
import torch
from torch import nn

from fedssl.models.multi_decoder import decoder_parts
from fedssl.models.vnet import NearestUpConv, VNet, fold_nearest


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    return VNet()


def test_parameters_of_the_published_form_are_exact(published):
    assert size(published) == 12_347_716
    assert size(published.encoder) == 7_376_896
    assert [size(d) for d in published.decoders] == [2_071_970, 2_898_850]
    assert len(published.state_dict()) == 298


def test_a_third_decoder_has_the_size_of_the_second():
    model = VNet(width=4, upsampling=("transposed", "nearest", "linear"))
    assert size(model.decoders[2]) == size(model.decoders[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_folded_kernel_by_hand(dims):
    weight = torch.tensor([1.0, 10.0, 100.0])
    kernel = weight
    for _ in range(dims - 1):
        kernel = kernel[..., None] * weight
    folded = fold_nearest(kernel[None, None])[0, 0]
    line = torch.tensor([100.0, 110.0, 11.0, 1.0])
    expected = line
    for _ in range(dims - 1):
        expected = expected[..., None] * line
    torch.testing.assert_close(folded, expected)


@pytest.mark.parametrize(("dims", "space"), [(2, (7, 10)), (3, (4, 5, 6)), (3, (1, 1, 1))])
def test_folded_upsampling_equals_nearest_and_convolution(dims, space):
    torch.manual_seed(1)
    layer = NearestUpConv(dims, 8, 6)
    x = torch.randn(2, 8, *space, requires_grad=True)
    upstream = torch.randn(2, 6, *(2 * s for s in space))
    results = []
    for fold in (True, False):
        layer.fold = fold
        out = layer(x)
        results.append((out, *torch.autograd.grad(out, (x, *layer.parameters()), upstream)))
    folded, plain = results
    for a, b, tolerance in zip(folded, plain, (1e-6, 1e-6, 5e-5, 5e-5), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_folding_is_exact_in_double_precision_and_keeps_the_state_dict():
    torch.manual_seed(2)
    model = VNet(2, 1, 3, width=4).double().eval()
    names = list(model.state_dict())
    x = torch.randn(1, 1, 32, 16, dtype=torch.float64)
    folded = model.forward_all(x).logits[1]
    model.fold(enabled=False)
    torch.testing.assert_close(model.forward_all(x).logits[1], folded, rtol=1e-12, atol=1e-12)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("dims", "space"), [(2, (32, 48)), (3, (16, 32, 16))])
@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_all_decoders_return_logits_and_features_of_the_input_size(dims, space, norm):
    torch.manual_seed(0)
    model = VNet(dims, 2, 4, width=4, upsampling=("transposed", "nearest", "linear"), norm=norm)
    out = model.forward_all(torch.randn(2, 2, *space))
    assert [z.shape for z in out.logits] == [(2, 4, *space)] * 3
    assert [f.shape for f in out.features] == [(2, model.feature_channels, *space)] * 3


def test_features_are_the_input_of_the_last_convolution_and_not_negative():
    torch.manual_seed(0)
    model = VNet(2, 1, 2, width=4)
    out = model.forward_all(torch.randn(2, 1, 32, 32))
    for decoder, logits, features in zip(model.decoders, out.logits, out.features, strict=True):
        torch.testing.assert_close(decoder.head(features), logits)
        assert (features >= 0).all()


def test_a_call_runs_the_first_decoder_only():
    torch.manual_seed(0)
    model = VNet(2, 1, 2, width=4).eval()
    ran = []
    for i, decoder in enumerate(model.decoders):
        decoder.register_forward_hook(lambda *_, i=i: ran.append(i))
    x = torch.randn(1, 1, 32, 32)
    alone = model(x)
    assert ran == [0]
    together = model.forward_all(x)
    torch.testing.assert_close(alone.logits, together.logits[0])
    torch.testing.assert_close(alone.features, together.features[0])


def test_dropout_acts_on_the_bottleneck_and_on_each_decoders_features():
    model = VNet(3, width=4)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout3d)]
    assert names == ["dropout", "decoders.0.dropout", "decoders.1.dropout"]
    assert all(m.p == 0.5 for m in model.modules() if isinstance(m, nn.Dropout3d))


def test_decoders_start_with_different_weights_and_the_seed_repeats_them():
    def build():
        torch.manual_seed(5)
        return VNet(2, 1, 2, width=4)

    a, b = build().state_dict(), build().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["decoders.0.head.weight"], a["decoders.1.head.weight"])


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="multiples of 16"):
        VNet(2, width=4)(torch.zeros(1, 1, 32, 24))


def test_unknown_forms_are_named():
    with pytest.raises(ValueError, match="transposed, nearest, linear"):
        VNet(2, width=4, upsampling=("bicubic",))
    with pytest.raises(ValueError, match="batch, group, instance"):
        VNet(2, width=4, norm="layer")


def test_private_parts_are_the_state_of_that_decoder(published):
    parts = decoder_parts(published, private=[1])
    assert len(parts["private"]) == len(published.decoders[1].state_dict())
    assert all(name.startswith("decoders.1.") for name in parts["private"])
    assert set(parts["shared"]) | set(parts["private"]) == set(published.state_dict())
    assert list(decoder_parts(published)) == ["shared"]


@pytest.mark.parametrize("private", [[0], [2], [-1]])
def test_the_decoder_that_is_evaluated_cannot_be_private(published, private):
    with pytest.raises(ValueError, match="cannot be private"):
        decoder_parts(published, private)
