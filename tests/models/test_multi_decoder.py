from __future__ import annotations

import pytest
import torch

from fedssl.models.base import SegmentationModel
from fedssl.models.multi_decoder import two_decoder_unet, upsampling_of


@pytest.mark.parametrize(("dims", "space"), [(2, (32, 16)), (3, (16, 16, 32))])
@pytest.mark.parametrize("decoders", [1, 2, 3])
def test_every_decoder_returns_logits_and_features_of_the_input_size(dims, space, decoders):
    torch.manual_seed(0)
    model = two_decoder_unet(dims, 2, 3, decoders=decoders, width=4, norm="group", depth=3)
    out = model.forward_all(torch.randn(2, 2, *space))
    assert [z.shape for z in out.logits] == [(2, 3, *space)] * decoders
    assert [f.shape for f in out.features] == [(2, model.feature_channels, *space)] * decoders
    for decoder, logits, features in zip(model.decoders, out.logits, out.features, strict=True):
        torch.testing.assert_close(decoder.head(features), logits)


def test_a_call_runs_the_first_decoder_only():
    torch.manual_seed(0)
    model = two_decoder_unet(2, 1, 2, width=4).eval()
    assert isinstance(model, SegmentationModel)
    ran = []
    for i, decoder in enumerate(model.decoders):
        decoder.register_forward_hook(lambda *_, i=i: ran.append(i))
    x = torch.randn(1, 1, 32, 32)
    alone = model(x)
    assert ran == [0]
    torch.testing.assert_close(alone.logits, model.forward_all(x).logits[0])


def test_eval_mode_is_deterministic_and_train_mode_is_not():
    torch.manual_seed(0)
    model = two_decoder_unet(2, 1, 2, width=4)
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(model(x).logits, model(x).logits)
    model.eval()
    assert torch.equal(model(x).logits, model(x).logits)


def test_gradients_of_both_decoders_meet_in_the_encoder():
    torch.manual_seed(0)
    model = two_decoder_unet(2, 1, 2, width=4).eval()
    x = torch.randn(1, 1, 32, 32)
    weight = next(model.encoder.parameters())
    grads = [torch.autograd.grad(model.forward_all(x).logits[i].sum(), weight)[0] for i in (0, 1)]
    both = torch.autograd.grad(sum(z.sum() for z in model.forward_all(x).logits), weight)[0]
    assert all(g.abs().sum() > 0 for g in grads)
    torch.testing.assert_close(both, grads[0] + grads[1], rtol=1e-4, atol=1e-4)


def test_only_the_transposed_decoder_has_a_transposed_convolution():
    model = two_decoder_unet(2, 1, 2, decoders=3, width=4)
    transposed = [
        any(isinstance(m, torch.nn.ConvTranspose2d) for m in d.modules()) for d in model.decoders
    ]
    assert transposed == [True, False, False]


@pytest.mark.parametrize("decoders", [0, 4])
def test_a_number_of_decoders_without_a_form_is_refused(decoders):
    with pytest.raises(ValueError, match="1 to 3"):
        upsampling_of(decoders)


def test_wrong_sizes_and_norms_are_named():
    with pytest.raises(ValueError, match="multiples of 16"):
        two_decoder_unet(2, 1, 2, width=4)(torch.zeros(1, 1, 40, 32))
    with pytest.raises(ValueError, match="instance, batch, group"):
        two_decoder_unet(2, 1, 2, width=4, norm="layer")
