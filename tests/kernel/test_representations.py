"""What a layer sees of its inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from whence._errors import ArgumentError
from whence.kernel.representations import activations


def test_the_last_layers_input_is_what_the_layers_before_it_give() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Softmax(1))
    inputs = torch.randn(5, 3)
    torch.testing.assert_close(activations(model, None)(inputs), model[:2](inputs), rtol=0, atol=0)
    torch.testing.assert_close(activations(model, "0")(inputs), model[0](inputs), rtol=0, atol=0)


def test_a_model_without_parameters_has_no_last_layer_to_compare() -> None:
    with pytest.raises(ArgumentError, match="Flatten has no layer with parameters"):
        activations(nn.Flatten(), None)
