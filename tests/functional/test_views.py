"""Views of an image and the way back to its grid."""

from __future__ import annotations

import pytest
import torch

from fedssl.functional.views import View, look, undo, views_of


def test_one_view_per_scale_and_with_flips_at_least_four():
    assert views_of((1.0,), flips=False) == [View()]
    assert views_of((0.5, 1.0), flips=False) == [View(0.5), View(1.0)]
    mirrored = [(), (-1,), (-2,), (-2, -1)]
    assert views_of((1.0,), flips=True) == [View(1.0, flip) for flip in mirrored]
    five = views_of((0.5, 0.75, 1.0, 1.25, 1.5), flips=True)
    assert [v.flip for v in five] == [*mirrored, ()]
    assert [v.scale for v in five] == [0.5, 0.75, 1.0, 1.25, 1.5]


@pytest.mark.parametrize("size", [(8, 12), (4, 8, 12)])
def test_a_flip_is_undone_bit_for_bit_and_the_plain_view_is_the_image_itself(size):
    image = torch.randn(2, 3, *size)
    assert look(image, View()) is image
    assert undo(image, View(), size) is image
    for view in views_of((1.0,), flips=True)[1:]:
        seen = look(image, view)
        assert not torch.equal(seen, image)
        assert torch.equal(undo(seen, view, size), image)


def test_a_scaled_view_has_sides_that_the_network_can_take():
    image = torch.randn(1, 1, 32, 40)
    assert look(image, View(1.5), multiple=8).shape == (1, 1, 48, 64)  # 60 / 8 = 7.5, to even
    assert look(image, View(0.75), multiple=8).shape == (1, 1, 24, 32)  # 30 / 8 = 3.75
    assert look(image, View(0.1), multiple=8).shape == (1, 1, 8, 8)


def test_what_varies_linearly_comes_back_from_twice_its_size():
    ramp = torch.arange(16.0).expand(1, 1, 8, 16)
    view = View(2.0, (-1,))
    back = undo(look(ramp, view), view, (8, 16))
    torch.testing.assert_close(back[..., 1:-1], ramp[..., 1:-1])
