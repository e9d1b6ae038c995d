"""Gradients of frozen parameters equal those of trained ones, without autograd forming any weight's gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from whence.gradients import capture

MODELS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)
    ),
    "embedding": lambda: nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 2)),
    "attention": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Linear(4, 2)
    ),
    "a layer without a rule": lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(4), nn.Linear(4, 2)),
}
INPUTS = {
    "convolutions": torch.randn(5, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "embedding": torch.arange(15).reshape(5, 3) % 7,
    "attention": torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "a layer without a rule": torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_frozen_parameters_have_the_gradients_of_trained_ones(kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().double().eval()
    names = [name for name, _ in model.named_parameters()]

    def gradients(*, frozen: bool) -> dict[str, torch.Tensor]:
        with capture(model, names, frozen=frozen) as captured:
            model(INPUTS[kind]).pow(2).sum().backward()
        return {name: one.part(0, one.shape[0]) for name, one in captured.gradients().items()}

    trained = gradients(frozen=False)
    for parameter in model.parameters():
        parameter.grad = None
    model.requires_grad_(False)
    frozen = gradients(frozen=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(frozen) == set(trained) == set(names)
    for name in names:
        torch.testing.assert_close(frozen[name], trained[name], rtol=1e-12, atol=1e-14)
