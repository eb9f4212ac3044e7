from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedssl.errors import ConfigError
from fedssl.functional.corruption import corrupt
from fedssl.functional.quality import CorrelationSums, quality_regulariser
from fedssl.models.quality_net import QualityNet, first_convolution


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A ResNet-18 for RGB images in the names of torchvision, with its classifier."""
    torch.manual_seed(3)
    state = QualityNet(2, 1, backbone="resnet18").backbone.state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(state, path)
    return path, state


def test_sizes_are_half_a_million_and_eleven_million():
    convolutions = 9 * (2 * 32 + 32 * 64 + 64 * 128 + 128 * 256) + 3 * (32 + 64 + 128 + 256)
    assert size(QualityNet(1, 1)) == convolutions + 256 * 256 + 256 + 256 + 1
    assert size(QualityNet(3, 1, backbone="resnet18")) == 11_311_233


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
@pytest.mark.parametrize(("channels", "foreground"), [(1, 1), (3, 2)])
def test_output_is_one_score_per_class_also_for_one_image(backbone, channels, foreground):
    torch.manual_seed(0)
    model = QualityNet(channels, foreground, backbone=backbone).eval()
    for batch in (1, 2):
        image = torch.randn(batch, channels, 48, 40)
        mask = torch.randint(0, 2, (batch, foreground, 48, 40))
        score = model(image, mask)
        assert score.shape == (batch, foreground)
        assert ((score > 0) & (score < 1)).all()


def test_first_convolution_sums_filters_for_gray_and_averages_them_for_masks():
    rgb = torch.randn(64, 3, 7, 7)
    gray = first_convolution(rgb, 1, 2)
    assert gray.shape == (64, 3, 7, 7)
    torch.testing.assert_close(gray[:, 0], rgb.sum(1))
    torch.testing.assert_close(gray[:, 1], rgb.mean(1))
    torch.testing.assert_close(gray[:, 2], rgb.mean(1))
    color = first_convolution(rgb, 3, 1)
    assert torch.equal(color[:, :3], rgb)
    torch.testing.assert_close(color[:, 3], rgb.mean(1))


def test_a_gray_image_meets_the_same_response_as_its_rgb_copy():
    rgb, gray = torch.randn(8, 3, 7, 7), torch.randn(1, 1, 20, 20)
    conv = torch.nn.functional.conv2d
    for channels in (1, 2, 5):
        weights = first_convolution(rgb, channels, 1)[:, :channels]
        torch.testing.assert_close(
            conv(gray.expand(-1, channels, -1, -1), weights),
            conv(gray.expand(-1, 3, -1, -1), rgb),
            rtol=1e-4,
            atol=1e-4,
        )


def test_pretrained_weights_come_from_a_local_file(pretrained):
    path, state = pretrained
    model = QualityNet(3, 1, backbone="resnet18", weights=path)
    own = model.backbone.state_dict()
    assert own["conv1.weight"].shape == (64, 4, 7, 7)
    assert torch.equal(own["conv1.weight"][:, :3], state["conv1.weight"])
    torch.testing.assert_close(own["conv1.weight"][:, 3], state["conv1.weight"].mean(1))
    assert torch.equal(own["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_files_that_do_not_fit_are_named(pretrained, tmp_path):
    _, state = pretrained
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors cannot be read"):
        QualityNet(1, 1, backbone="resnet18", weights=tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(ConfigError, match=r"text\.safetensors cannot be read"):
        QualityNet(1, 1, backbone="resnet18", weights=tmp_path / "text.safetensors")
    broken = {k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}
    save_file(broken | {"extra": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"2 tensors .* 'layer1.0.conv1.weight'"):
        QualityNet(1, 1, backbone="resnet18", weights=tmp_path / "other.safetensors")


def test_unknown_backbones_and_useless_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="small, resnet18"):
        QualityNet(1, 1, backbone="resnet50")
    with pytest.raises(ConfigError, match="only resnet18"):
        QualityNet(1, 1, weights=tmp_path / "x.safetensors")


def test_shapes_that_do_not_fit_are_named():
    model = QualityNet(1, 2)
    with pytest.raises(ValueError, match=r"mask \(2, 2, 16, 16\)"):
        model(torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16))


def test_head_drops_and_starts_unsaturated_without_bias():
    torch.manual_seed(0)
    model = QualityNet(1, 1, dropout=0.3)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.15]
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    score = model.eval()(torch.randn(16, 1, 32, 32), torch.randint(0, 2, (16, 1, 32, 32)))
    assert ((score > 0.05) & (score < 0.95)).all()


def test_regulariser_moves_the_mask_and_not_the_frozen_predictor():
    torch.manual_seed(0)
    model = QualityNet(1, 1).eval().requires_grad_(requires_grad=False)
    logits = torch.randn(2, 1, 32, 32, requires_grad=True)
    quality_regulariser(model(torch.randn(2, 1, 32, 32), logits.sigmoid())).backward()
    assert logits.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def scored_masks(count, seed):
    """Discs in noise, with corrupted masks and their Dice scores."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    images, masks, scores = [], [], []
    for _ in range(count):
        (y, x), radius = rng.uniform(11, 21, 2), rng.uniform(5, 9)
        mask = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).astype(np.uint8)
        guess = corrupt(mask, rng, bank=[np.roll(mask, rng.integers(-9, 9, 2), (0, 1))])
        images.append(mask + rng.normal(0, 0.3, mask.shape))
        masks.append(guess.mask)
        scores.append([guess.dice])
    image, mask, score = (np.array(v, dtype=np.float32) for v in (images, masks, scores))
    return (
        torch.from_numpy(image)[:, None],
        torch.from_numpy(mask)[:, None],
        torch.from_numpy(score),
    )


def test_the_small_network_learns_quality_from_image_and_mask():
    torch.manual_seed(0)
    image, mask, score = scored_masks(640, 1)
    model = QualityNet(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4)
    for step in range(80):
        batch = slice(32 * step % 640, 32 * step % 640 + 32)
        loss = nn.functional.smooth_l1_loss(model(image[batch], mask[batch]), score[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, mask, score = scored_masks(200, 2)
    with torch.no_grad():
        guess, blind = model.eval()(image, mask), model(torch.zeros_like(image), mask)
    assert CorrelationSums.of(guess, score).pearson() > 0.7
    assert CorrelationSums.of(guess, blind).pearson() < 0.7
