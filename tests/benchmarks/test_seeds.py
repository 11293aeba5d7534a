"""Several seeds as one batched network: the gradients are those of each alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks import seeds


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_batched_gradients_are_those_of_each_network(width):
    models, images = seeds.networks(3, width, "cpu", quick=True)
    together, apart = seeds.Batched(models).gradients(images), seeds.alone(models, images)
    assert together.keys() == apart[0].keys()
    for name, stacked in together.items():
        torch.testing.assert_close(stacked, torch.stack([own[name] for own in apart]), rtol=1e-4, atol=1e-5)
    first, second = (torch.cat([gradient.flatten() for gradient in own.values()]) for own in apart[:2])
    assert not torch.allclose(first, second)  # networks and images of their own
