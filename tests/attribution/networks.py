"""Small networks of several kinds with data, and slow references for their gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Data = tuple[Tensor, Tensor]


class Words(nn.Module):
    """An embedding, tied to the output layer; every position goes through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 9, bias=False)
        self.out.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        """Return logits of the next word."""
        out: Tensor = self.out(torch.tanh(self.mix(self.table(words))).mean(1))
        return out


def network(kind: str) -> nn.Module:
    """Return a network in float64."""
    torch.manual_seed(3)
    made: dict[str, nn.Module] = {
        "linear": nn.Linear(6, 3),
        "perceptron": nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        "convolution": nn.Sequential(
            *(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.ReLU()),
            *(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(48, 3)),
        ),
        "positions": nn.Sequential(
            *(nn.Unflatten(1, (2, 3)), nn.Linear(3, 16), nn.Tanh(), nn.LayerNorm(16)),
            *(nn.Linear(16, 16), nn.Flatten(), nn.Linear(32, 3)),
        ),
        "embedding": nn.Sequential(nn.Embedding(30, 2), nn.Flatten(), nn.Linear(12, 3)),
        "tied": Words(),
    }
    return made[kind].double().eval()


KINDS = ("linear", "perceptron", "convolution", "positions", "embedding", "tied")


def data(kind: str, count: int, seed: int = 0) -> Data:
    """Return inputs that fit a network, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    if kind in {"embedding", "tied"}:
        return torch.randint(30 if kind == "embedding" else 9, (count, 6), generator=generator), labels
    return torch.randn(count, 6, generator=generator, dtype=torch.float64), labels


def one_by_one(model: nn.Module, examples: Data, quantity: str = "loss", names: list[str] | None = None) -> Tensor:
    """Return the flattened gradient of every example's quantity by autograd, one example at a time."""
    found = []
    parameters = [one for name, one in model.named_parameters() if names is None or name in names]
    for x, y in zip(*examples, strict=True):
        logits = model(x[None])
        if quantity == "loss":
            value = F.cross_entropy(logits, y[None])
        elif quantity == "logit":
            value = logits[0, y]
        else:
            probability = torch.softmax(logits, 1)[0, y]
            value = torch.log(probability / (1 - probability))
        gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([one.flatten() for one in gradients]))
    return torch.stack(found)
