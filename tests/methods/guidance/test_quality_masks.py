"""The masks on which the predictor is trained, and their quality."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guided import FUNDUS, VOLUMES, labeled_batch

from fedssl.functional.consistency import hard_label, probabilities
from fedssl.functional.labels import foreground_targets
from fedssl.memory import FileMemory
from fedssl.methods.quality_masks import MaskSource, WeakModels, snapshot_file
from fedssl.seeds import generators
from fedssl.types import Output

ONLY = {"p_identity": 0, "p_single": 0, "p_chained": 0, "p_cross_image": 0, "p_heavy": 0}

ONLY |= {"p_catastrophic": 0, "p_blob": 0}


@pytest.mark.parametrize("task", [FUNDUS, VOLUMES])
def test_untouched_masks_have_quality_one_and_belong_to_their_pictures(guided_setup, task):
    setup = guided_setup(task, **{**ONLY, "p_identity": 1}, masks_per_step=5)
    batch = labeled_batch(task)
    graded = MaskSource(replace(setup, task=replace(task, classes=task.classes[:2])), 0.0)
    drawn = graded.draw(batch)
    assert drawn.image.shape == (15, task.channels, 32, 32)
    assert (drawn.quality == 1).all()
    targets = foreground_targets(batch.label, 1, task.output)
    for n in range(15):
        sample = n // 5
        assert torch.equal(
            drawn.mask[n], targets[sample, :, 0] if task is VOLUMES else targets[sample]
        )
        found = [torch.equal(drawn.image[n], plane) for plane in pictures(batch.image[sample])]
        assert any(found)


def pictures(image):
    return image.transpose(0, 1) if image.ndim == 4 else [image]


def test_quality_is_the_dice_of_what_was_drawn(guided_setup):
    setup, batch = guided_setup(masks_per_step=20), labeled_batch()
    drawn = MaskSource(setup, 0.3).draw(batch)
    truth = foreground_targets(batch.label, 2, Output.NESTED).repeat_interleave(20, 0)
    overlap, total = (drawn.mask * truth).sum((2, 3)), (drawn.mask + truth).sum((2, 3))
    expected = torch.where(total > 0, 2 * overlap / total.clamp_min(1), 1.0)
    torch.testing.assert_close(drawn.quality, expected)
    assert 0.0 < drawn.quality.mean() < 1.0
    assert set(drawn.mask.unique().tolist()) <= {0.0, 1.0}


def test_masks_are_the_same_for_the_same_seed_only(guided_setup):
    setup, batch = guided_setup(), labeled_batch()
    seeds = (1, 1, 2)
    drawn = [
        MaskSource(replace(setup, rng=generators(s, "masks")), 0.2).draw(batch).mask for s in seeds
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_swapped_masks_come_from_other_images(guided_setup):
    setup, batch = guided_setup(**{**ONLY, "p_cross_image": 1, "p_single": 1e-9}), labeled_batch()
    setup = replace(setup, task=replace(FUNDUS, classes=FUNDUS.classes[:2]))
    drawn = MaskSource(setup, 0.0).draw(batch)
    truth = foreground_targets(batch.label, 1, Output.NESTED)
    for n, mask in enumerate(drawn.mask):
        assert any(torch.equal(mask, truth[i]) for i in range(3) if i != n // 4)


@pytest.mark.parametrize("task", [FUNDUS, VOLUMES])
def test_a_weak_mask_is_what_a_snapshot_predicts(guided_setup, task, tmp_path):
    setup, batch = guided_setup(task), labeled_batch(task)
    base = {k: v for k, v in setup.model.state_dict().items() if not k.startswith("predictor.")}
    other = {**base, "head.bias": torch.full_like(base["head.bias"], 5.0)}
    other["head.bias"][0] *= task.output == Output.NESTED
    FileMemory(tmp_path / "memory", 0, 1).save(snapshot_file(3), other)
    weak = WeakModels(setup)
    assert len(weak) == 2
    drawn = MaskSource(setup, 1.0).draw(batch)
    predicted = [torch.from_numpy(weak.predict(i, batch.image)).float() for i in range(2)]
    model = setup.model.eval()
    with torch.no_grad():
        logits = model(batch.image).logits
    received = hard_label(probabilities(logits, task.output), task.output).float()
    assert torch.equal(predicted[1], received)
    assert not torch.equal(predicted[0], predicted[1])
    for n, mask in enumerate(drawn.mask):
        candidates = [plane for p in predicted for plane in pictures(p[n // 4])]
        assert any(torch.equal(mask, c) for c in candidates)


def test_softened_masks_are_not_binary(guided_setup):
    drawn = MaskSource(guided_setup(p_soft=1.0), 0.0).draw(labeled_batch())
    assert ((drawn.mask > 0.01) & (drawn.mask < 0.99)).any()
    assert ((drawn.quality >= 0) & (drawn.quality <= 1)).all()
