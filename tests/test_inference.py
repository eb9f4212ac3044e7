"""Dense prediction: however an image is cut, a pointwise predictor gives the whole image's map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedssl.inference import neighbours_as_channels, pad_to_multiple, predict_case
from fedssl.types import Task

CLASSES = ("background", "tumor")
PICTURE = Task("t", CLASSES)
SLICES = Task("t", CLASSES, mode="slices")
THICK = Task("t", CLASSES, mode="2.5d", channels=3)
VOLUME = Task("t", CLASSES, mode="3d")


def random_image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pointwise(x: Tensor) -> list[Tensor]:
    return [2 * x + 1]


@pytest.mark.parametrize(
    ("task", "shape", "patch"),
    [
        (PICTURE, (1, 33, 47), None),
        (PICTURE, (2, 33, 47), (16, 16)),
        (PICTURE, (1, 10, 70), (32, 32)),
        (PICTURE, (1, 5, 5), (16, 16)),
        (SLICES, (1, 5, 33, 30), None),
        (SLICES, (2, 5, 33, 30), (16, 16)),
        (VOLUME, (1, 9, 33, 30), (8, 16, 16)),
        (VOLUME, (1, 3, 33, 30), (8, 16, 16)),
        (VOLUME, (1, 9, 7, 5), None),
    ],
)
def test_a_pointwise_map_does_not_notice_windows_slices_or_padding(
    task: Task, shape: tuple[int, ...], patch: tuple[int, ...] | None
):
    image = random_image(*shape)
    (found,) = predict_case(pointwise, image, task, patch=patch, stride=4, batch_size=3)
    torch.testing.assert_close(found, 2 * image + 1, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    patch=st.sampled_from([None, (16, 16), (8, 24)]),
    overlap=st.sampled_from([0.0, 0.5]),
)
def test_reduced_maps_keep_the_grid_of_the_padded_image(
    height: int, width: int, patch: tuple[int, int] | None, overlap: float
):
    image = random_image(1, height, width)

    def with_features(x: Tensor) -> list[Tensor]:
        return [x, F.avg_pool2d(x, 4)]

    full, reduced = predict_case(
        with_features, image, PICTURE, patch=patch, stride=8, overlap=overlap
    )
    assert full.shape == (1, height, width)
    assert reduced.shape == (1, -(-height // 4), -(-width // 4))
    padded = F.pad(image[None], (0, -width % 8, 0, -height % 8), mode="replicate")
    expected = F.avg_pool2d(padded, 4)[0, :, : reduced.shape[1], : reduced.shape[2]]
    torch.testing.assert_close(reduced, expected, atol=1e-5, rtol=0)


def test_what_reaches_the_network_is_padded_to_its_stride_and_to_the_training_patch():
    seen: list[tuple[int, ...]] = []

    def watching(x: Tensor) -> list[Tensor]:
        seen.append(tuple(x.shape))
        assert not torch.is_grad_enabled()
        return [x]

    predict_case(watching, random_image(1, 33, 47), PICTURE, patch=None, stride=16)
    predict_case(watching, random_image(1, 10, 20), PICTURE, patch=(32, 32), stride=16)
    predict_case(watching, random_image(1, 5, 9, 9), SLICES, patch=None, stride=4, batch_size=2)
    assert seen == [(1, 1, 48, 48), (1, 1, 32, 32)] + [(2, 1, 12, 12)] * 2 + [(1, 1, 12, 12)]
    seen.clear()
    predict_case(watching, random_image(1, 40, 20), PICTURE, patch=(32, 32), stride=16)
    assert {shape[2:] for shape in seen} == {(32, 32)}


def test_padding_repeats_the_edge_at_the_end_only():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    padded = pad_to_multiple(image, 4, 2)
    assert padded[0, 0].tolist() == [
        [1.0, 2.0, 2.0, 2.0],
        [3.0, 4.0, 4.0, 4.0],
        [5.0, 6.0, 6.0, 6.0],
        [5.0, 6.0, 6.0, 6.0],
    ]
    assert pad_to_multiple(image, 1, 2) is image
    assert pad_to_multiple(image, 2, 2, (8, 2)).shape == (1, 1, 8, 2)


def test_a_slice_sees_its_neighbours_in_order_and_the_ends_see_themselves():
    volume = torch.arange(4.0).reshape(1, 4, 1, 1)
    stacked = neighbours_as_channels(volume)
    assert stacked[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    colours = torch.stack([volume[0], volume[0] + 10])
    assert neighbours_as_channels(colours)[1, :, 0, 0].tolist() == [0, 10, 1, 11, 2, 12]


def test_slices_with_neighbours_give_one_map_per_slice():
    volume = random_image(1, 5, 9, 6)

    def middle(x: Tensor) -> list[Tensor]:
        assert x.shape[1] == 3
        return [x[:, 1:2], x.sum(1, keepdim=True)]

    centre, total = predict_case(middle, volume, THICK, patch=None, stride=4, batch_size=2)
    assert torch.equal(centre, volume)
    ends = [volume[:, [0, 0, 1]].sum(1), volume[:, [3, 4, 4]].sum(1)]
    torch.testing.assert_close(total[:, [0, -1]], torch.stack(ends, 1))


def test_volumes_of_2_5d_training_and_prediction_stack_their_neighbours_alike():
    from fedssl.data.sampling import take_slice

    volume = random_image(2, 4, 3, 3)
    stacked = neighbours_as_channels(volume)
    for position in range(4):
        expected = take_slice(volume.numpy(), position, "2.5d")
        assert torch.equal(stacked[position], torch.from_numpy(expected))
