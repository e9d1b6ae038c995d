"""Small networks with data, and slow references for the gradient of a score with respect to the training input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Data = tuple[Tensor, Tensor]


class Vision(nn.Module):
    """A small vision transformer: patches, a class token, two blocks of torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 10, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        words = self.patch(images).flatten(2).transpose(1, 2)
        words = torch.cat([self.token.expand(len(words), -1, -1), words], 1) + self.place
        out: Tensor = self.head(self.blocks(words)[:, 0])
        return out


class Residual(nn.Module):
    """Two convolutions with batch normalisation around a shortcut, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        left = self.act(self.norm(self.first(images)))
        right = self.act(left + self.norm2(self.second(left)))
        out: Tensor = self.head(right.mean((2, 3)))
        return out


def network(kind: str) -> nn.Module:
    """Return a network in float64; batch normalisations have seen data."""
    torch.manual_seed(3)
    made: dict[str, nn.Module] = {
        "linear": nn.Sequential(nn.Flatten(), nn.Linear(72, 3)),
        "smooth": nn.Sequential(
            *(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.Tanh()),
            nn.Linear(5, 3),
        ),
        "kinked": nn.Sequential(
            *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU()),
            nn.Linear(5, 3),
        ),
        "residual": Residual(),
        "vision": Vision(),
    }
    model = made[kind].double()
    with torch.no_grad():
        model.train()(data(20, 5)[0])
    return model.eval()


KINDS = ("linear", "smooth", "kinked", "residual", "vision")


def data(count: int, seed: int = 0) -> Data:
    """Return images of two channels, 6 × 6, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 2, 6, 6, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (count,), generator=generator)


def quantity_of(logits: Tensor, label: Tensor, quantity: str) -> Tensor:
    """Return what the target gains: minus its loss, its logit or its margin."""
    if quantity == "loss":
        return -F.cross_entropy(logits[None], label[None])
    others = torch.cat([logits[:label], logits[int(label) + 1 :]])
    return logits[label] if quantity == "logit" else logits[label] - torch.logsumexp(others, 0)


def flat_gradient(model: nn.Module, value: Tensor, names: list[str] | None, graph: bool = False) -> Tensor:
    """Return the gradient of a value with respect to some parameters, in one vector."""
    wanted = [one for name, one in model.named_parameters() if names is None or name in names]
    found = torch.autograd.grad(value, wanted, create_graph=graph, allow_unused=True, materialize_grads=True)
    return torch.cat([one.reshape(-1) for one in found])


def score_and_gradient(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    quantity: str,
    cosine: bool,
    names: list[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the score of one training example for one target and its gradient, by double backward."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        x = train[0].clone().requires_grad_()
        ours = flat_gradient(model, F.cross_entropy(model(x[None]), train[1][None]), names, graph=True)
        theirs = flat_gradient(model, quantity_of(model(target[0][None])[0], target[1], quantity), names)
        score = -(ours * theirs).sum()
        if cosine:
            score = score / (ours * ours).sum().sqrt() / math.sqrt(float((theirs * theirs).sum()))
        return score.detach(), torch.autograd.grad(score, x)[0]
