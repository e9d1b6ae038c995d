"""Where the score of a region map is one recorded step's term of the audit: its model, directions and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import GradientError, LabelError
from whence._numbers import even_parts
from whence.attribution import Trained, at_step, parameters_of
from whence.audit.quadrature import rule
from whence.audit.terms import StepTerms
from whence.kernel.features import Features
from whence.kernel.moments import end_of
from whence.kernel.products import Gradients
from whence.regions.accumulate import Maps
from whence.regions.recipe import AuditTerm

_TOGETHER = 64  # examples whose gradients are written out at once
_SHOWN = 8  # ids in a message


@final
class Term:
    """The step of an `AuditTerm`: the model before it, directions of targets, and the weights of examples.

    Args:
        trained: The model with its run.
        score: The term.
        train: Training examples that are asked for.
        memory_budget: Bytes that steps made again may take.

    Raises:
        ArgumentError: If there is no run.
        LabelError: If the run has no such step, or an example is not in its batch.
    """

    def __init__(self, trained: Trained, score: AuditTerm, train: Sequence[int], memory_budget: int) -> None:
        run = trained.recorded("AuditTerm")
        if score.step >= run.steps:
            raise LabelError(
                f"No step {score.step} in the run at {run.path}: it has {run.steps}, 0 to {run.steps - 1}."
            )
        drawn = torch.cat(list(run.record_of(score.step).batches)).unique().tolist()
        missing = sorted(set(train) - set(drawn))
        if missing:
            shown = ", ".join(map(str, drawn[:_SHOWN])) + (", ..." if len(drawn) > _SHOWN else "")
            raise LabelError(
                f"No training example {missing[0]} in the batch of step {score.step}, so its term there is 0. Its "
                f"batch holds {len(drawn)}: {shown}; see run.record_of({score.step}).batches."
            )
        self.trained = at_step(run, score.step)
        self.names = parameters_of(self.trained, score.layers)
        dtype = next(one.dtype for one in self.trained.model.parameters() if one.is_floating_point())
        self._step = score.step
        self._terms = StepTerms(run, score.step, self.names, rule(score.quadrature), dtype, memory_budget)
        self._weights = dict(zip(sorted(set(train)), self._weighed(sorted(set(train))).tolist(), strict=True))

    def directions(self, features: Features, part: range) -> dict[str, Float[Tensor, "targets *parameter"]]:
        """Return the directions u of the targets at some positions, by parameter."""
        found = self._terms.sensitivities(features.targets(part))
        live = dict(self.trained.model.named_parameters())
        return {
            name: found[name] if name in found else live[name].detach().new_zeros(len(part), *live[name].shape)
            for name in self.names
        }

    def weighed(self, maps: Maps, train: Sequence[int]) -> Maps:
        """Return maps of each example's own loss as those of its part of the batch's."""
        weight = torch.tensor([self._weights[one] for one in train], dtype=maps.scores.dtype, device=maps.scores.device)
        return replace(
            maps,
            values=maps.values * weight.reshape(-1, *[1] * (maps.values.dim() - 1)),
            scores=maps.scores * weight,
            remainder=None if maps.remainder is None else maps.remainder * weight,
        )

    def _weighed(self, train: list[int]) -> Float[Tensor, " examples"]:
        """Return each example's weight in the batch's loss.

        Raises:
            GradientError: If its gradient there is not a multiple of that of its own loss.
        """
        features = Features(self.trained, self.trained.examples, train, "loss", self.names)
        found = []
        for part in even_parts(range(len(train)), _TOGETHER):
            ((_, own),) = features.blocks(end_of(self.trained), part, len(part))
            found.append(self._multiples(train[part.start : part.stop], own))
        return torch.cat(found)

    def _multiples(self, train: list[int], own: Gradients) -> Float[Tensor, " examples"]:
        sides = []
        for name, theirs in self._terms.gradients(torch.tensor(train)).items():
            ours = own[name].part(0, own[name].shape[0]).reshape_as(theirs) if name in own else torch.zeros_like(theirs)
            nobodys = self._terms.nobodys(name)
            both = (theirs, ours) if nobodys is None else (one.masked_fill(nobodys, 0.0) for one in (theirs, ours))
            sides.append(tuple(one.flatten(1) for one in both))
        theirs, ours = (torch.cat(side, 1) for side in zip(*sides, strict=True))
        squared = ours.square().sum(1)
        weight = torch.where(squared > 0, (theirs * ours).sum(1) / squared, 0)
        apart, size = (theirs - weight[:, None] * ours).norm(dim=1), theirs.norm(dim=1)
        other = (~(apart <= torch.finfo(size.dtype).eps ** 0.5 * size)).nonzero().flatten().tolist()
        if other:
            raise GradientError(
                f"At step {self._step} the gradient of training example {train[other[0]]} was not the one that the "
                f"model in evaluation mode has there ({float(apart[other[0]] / size[other[0]]):.1%} apart): dropout, "
                "batch normalisation in training, random transforms or autocast. A map would be one of another score. "
                "Use GradDot(), or a step without them."
            )
        return weight
