"""New pictures, each with its class and the training examples that the network says it comes from."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, LabelError
from whence._numbers import is_whole
from whence.provenance.generative.checks import check_kind, whole
from whence.provenance.generative.networks import GenerativeNetwork
from whence.provenance.generative.scoring import Scoring, best, within_class
from whence.provenance.modes import evaluating

_AT_ONCE = 256  # samples
_ROUNDS = 50  # of samples drawn for a class before giving up


def generate(
    network: GenerativeNetwork,
    count: int,
    *,
    label: int | None = None,
    k: int = 5,
    scoring: Scoring = within_class,
    seed: int = 0,
) -> xr.Dataset:
    """Draw latent vectors from the standard normal, and decode them to pictures with their exemplars (5.5, figure 8).

    The network is used in evaluation mode, and is then as before. Scores are the network's own word on where a picture
    comes from, not a measured influence: see `nearest_in_pixels` for a control.

    Args:
        network: A trained network.
        count: How many pictures.
        label: A class that the network must predict for each; None takes pictures as they come. The network knows no
            wish for a class, so others are drawn and left out.
        k: How many exemplars to name for each.
        scoring: `within_class`, the index head of the predicted class; or `across_classes`.
        seed: Of the latent vectors; torch's own generator stays as it is.

    Returns:
        ``picture`` ("sample", "channel", "height", "width"), from 0 to 1; ``predicted`` ("sample"), the class, and
        ``confidence``, its probability; ``exemplar`` ("sample", "rank"), the ids of training examples, the likeliest
        first, and ``score``, their probability. ``attrs`` have ``seed``, ``scoring``, the number of ``examples``, and a
        checksum of their ``labels``.

    Raises:
        ArgumentError: If a number is none, this is no generative network, a predicted class has fewer than ``k``
            examples, or pictures of the class asked for do not come up.
        LabelError: If there is no such class.
    """
    check_kind(network, GenerativeNetwork, "generate")
    many, named = whole("count", count, 1), whole("k", k, 1)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    if label is not None:
        _check_class(network, label, named, scoring)
    with evaluating(network), torch.no_grad():
        latent = _drawn(network, many, generator) if label is None else _of_class(network, many, label, generator)
        parts = [_described(network, part, named, scoring) for part in latent.split(_AT_ONCE)]
    found = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    dims = {
        "picture": ("sample", "channel", "height", "width"),
        "predicted": ("sample",),
        "confidence": ("sample",),
        "exemplar": ("sample", "rank"),
        "score": ("sample", "rank"),
    }
    name = getattr(scoring, "__name__", repr(scoring))
    known = {"examples": len(network.index), "labels": network.index.checksum}
    attrs = {"seed": seed, "scoring": name, **known, "unit": "probability"}
    return xr.Dataset({one: (dims[one], values) for one, values in found.items()}, attrs=attrs)


def _check_class(network: GenerativeNetwork, label: Any, k: int, scoring: Scoring) -> None:
    if not is_whole(label) or not 0 <= label < network.index.classes:
        raise LabelError(f"No class {label!r}: the network's classes are 0 to {network.index.classes - 1}.")
    size = int(network.index.sizes[label])
    if scoring is within_class and k > size:
        raise ArgumentError(
            f"`k` exemplars, {k}, are more than the {size} training examples of class {label}. Ask for at most {size}, "
            "or name them by all heads: scoring=across_classes."
        )


def _drawn(network: GenerativeNetwork, count: int, generator: torch.Generator) -> Float[Tensor, "count latent"]:
    weight: Tensor = network.class_head.weight
    return torch.randn(count, network.latent, generator=generator).to(weight)


def _of_class(
    network: GenerativeNetwork, count: int, label: int, generator: torch.Generator
) -> Float[Tensor, "count latent"]:
    """Draw until enough latent vectors are decoded to pictures of a class."""
    kept: list[Tensor] = []
    have = 0
    for _ in range(_ROUNDS):
        latent = _drawn(network, max(_AT_ONCE, count), generator)
        predicted = torch.cat([network.decode(part)["class_logits"].argmax(1) for part in latent.split(_AT_ONCE)])
        kept.append(latent[predicted == label])
        have += len(kept[-1])
        if have >= count:
            return torch.cat(kept)[:count]
    raise ArgumentError(
        f"Of {_ROUNDS * max(_AT_ONCE, count)} pictures drawn, {have} were predicted as class {label}; {count} were "
        "asked for. Train the network longer, or ask for fewer."
    )


def _described(network: GenerativeNetwork, latent: Tensor, k: int, scoring: Scoring) -> dict[str, Tensor]:
    """Return pictures, classes and exemplars of latent vectors."""
    made = network.decode(latent)
    confidence, predicted = made["class_logits"].softmax(1).max(1)
    exemplar, score = best(scoring(network, made["feature"], made["class_logits"]), k)
    return {
        "picture": made["logits"].sigmoid(),
        "predicted": predicted,
        "confidence": confidence,
        "exemplar": exemplar,
        "score": score,
    }
