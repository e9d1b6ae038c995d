"""What a target's quantity still owes to each parameter and optimizer buffer, walked backwards step by step.

The state is one row of parameters a target. A step of it (math of the reverse walk: transpose of the optimizer's step,
then one matrix product with the batch's per-example gradients) is done block by block of parameters, small enough that
everything a block needs stays in the processor's cache: neither the targets' gradients nor the batch's are ever written
out whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.audit.blocks import Block, Coefficient, Microbatch, blocks, entries
from whence.audit.products import add_product, multiplies_low
from whence.compiled import Carried, Factors, Transpose, has_kernels, walk
from whence.gradients import Dense, Outer, PerExample
from whence.optimizers import LinearStep

_POSITIONS = 16  # of the targets' gradients; with more, torch adds up the outer products faster than the kernels
_SMALL = 1e-6  # below it, a carried factor is multiplied in, long before float32 runs out of range


@final
class Adjoints:
    """Sensitivities of every target's remaining change to the shares of parameters and optimizer buffers.

    Args:
        shapes: Shape of every trained parameter.
        layers: Number of the layer of every trained parameter.
        targets: How many rows.
        dtype: In which they are held.
        device: Where they are held.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        layers: Mapping[str, int],
        targets: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.blocks = blocks(shapes, layers, targets, dtype, device)
        self.layers = max(layers.values()) + 1
        self.targets = targets
        self.buffers = [torch.zeros(targets, block.width, dtype=dtype, device=device) for block in self.blocks]
        self.parameters: list[Tensor] | None = None  # zero between steps, so not held, until a step decays parameters
        self.pending = dict.fromkeys(shapes, 1.0)  # a factor of the buffers, carried along instead of multiplied in
        self._held: list[Tensor | None] = [None, None]
        self._indices: dict[str, list[int]] = {}  # of each parameter's blocks
        for index, block in enumerate(self.blocks):
            self._indices.setdefault(block.name, []).append(index)

    def step(
        self,
        steps: Mapping[str, LinearStep],
        gradients: Mapping[str, PerExample],
        batch: Sequence[Microbatch],
        noise: Mapping[str, Tensor],
    ) -> tuple[Float[Tensor, "layers targets examples"], Float[Tensor, " targets"]]:
        """Walk back over one step.

        Args:
            steps: The optimizer's step of each parameter that it updated.
            gradients: The targets' gradients, integrated along the step.
            batch: The microbatches of the step.
            noise: Used gradients that are rounding and no example's, by parameter.

        Returns:
            What each example of the batch did to each target, layer by layer; and what the noise did, in float64.
        """
        if self.parameters is None and any(step.decay or step.coupled for step in steps.values()):
            self.hold_parameters()
        total = sum(one.examples for one in batch)
        found = self.buffers[0].new_zeros(self.layers, self.targets, total)
        rounding = self.buffers[0].new_zeros(self.targets, dtype=torch.float64)
        done = {
            name
            for name, step in steps.items()
            if name not in noise and self._walk_compiled(name, step, gradients.get(name), batch, found)
        }
        for index, block in enumerate(self.blocks):
            if block.name in steps and block.name not in done:
                h = self._part(gradients[block.name], block, 0) if block.name in gradients else None
                pulled = self._pull(index, block, h, steps[block.name])
                if pulled is not None:
                    sign = steps[block.name].sign
                    self._multiply(found[block.layer], block, *pulled, batch, sign)
                    if block.name in noise:
                        rounding += sign * pulled[1] * _times(pulled[0], noise[block.name], block)
                    self._settle(index, h, steps[block.name], *pulled)
        for name, step in steps.items():
            if step.buffered:
                self.pending[name] = step.beta * (self.pending[name] if self.pending[name] >= _SMALL else 1.0)
        return found, rounding

    def _walk_compiled(
        self, name: str, step: LinearStep, gradient: PerExample | None, batch: Sequence[Microbatch], found: Tensor
    ) -> bool:
        """Walk a weight back by the compiled kernels, which know outer products; return whether that was done."""
        outers = [one.gradients.get(name) for one in batch]
        examples = [one for one in outers if isinstance(one, Outer) and one.rows.shape[1] == 1]
        scales = [one for one in (part.scale_of(name) for part in batch) if isinstance(one, float)]
        if not isinstance(gradient, Outer) or min(len(examples), len(scales)) < len(batch) or not has_kernels(found):
            return False
        if not 0 < gradient.rows.shape[1] <= _POSITIONS or not gradient.columns.numel():
            return False
        if any(multiplies_low(one.columns, found) for one in examples):
            return False
        indices = self._indices[name]
        pending = self._bear([self.buffers[index] for index in indices], self.pending[name]) if step.buffered else 1.0
        rows = [one.rows.to(found) * (step.sign * scale) for one, scale in zip(examples, scales, strict=True)]
        walk(
            [self._carried(index, gradient.columns.shape[2], buffered=step.buffered) for index in indices],
            Factors(gradient.rows, gradient.columns),
            Factors(torch.cat(rows), torch.cat([one.columns for one in examples])),
            Transpose(step.kappa, step.sigma, step.gamma, pending, 1.0 - step.decay, step.coupled),
            found[self.blocks[indices[0]].layer],
        )
        return True

    def _carried(self, index: int, columns: int, *, buffered: bool) -> Carried:
        """Return what a block carries from step to step."""
        weights = None if self.parameters is None else self.parameters[index]
        return Carried(self.blocks[index].width // columns, self.buffers[index] if buffered else None, weights)

    def _pull(self, index: int, block: Block, h: Tensor | None, step: LinearStep) -> tuple[Tensor, float] | None:
        """Walk one block back; return its sensitivity to the used gradient as (matrix, factor), or None if it is 0."""
        p = None if self.parameters is None else self.parameters[index]
        if p is not None and h is not None:
            p += h
        moved = h if p is None else p
        b = self.buffers[index]
        kappa, sigma, gamma = (entries(value, block) for value in (step.kappa, step.sigma, step.gamma))
        if not step.buffered:
            return None if moved is None else _sensitivity(b, moved, 0.0, gamma, 1.0)
        pending = self._bear([b], self.pending[block.name])
        if moved is not None:
            _subtract(b, sigma, moved, 1.0 / pending)
        return _sensitivity(b, moved, kappa, gamma, pending)

    def _bear(self, buffers: Sequence[Tensor], pending: float) -> float:
        """Return the factor by which buffers are to be read, after applying it if it has become very small."""
        if pending >= _SMALL:
            return pending
        for b in buffers:
            b.mul_(pending)
        return 1.0

    def _settle(self, index: int, h: Tensor | None, step: LinearStep, u: Tensor, factor: float) -> None:
        """Bring one block's sensitivity to the parameters themselves to before the step: (1-d) p + λ u - h̄."""
        if self.parameters is None:
            return
        p = self.parameters[index]
        if u is p:
            p.mul_(1.0 - step.decay + step.coupled * factor)
        else:
            p.mul_(1.0 - step.decay)
            if step.coupled:
                p.add_(u, alpha=step.coupled * factor)
        if h is not None:
            p -= h

    def _multiply(
        self, found: Tensor, block: Block, u: Tensor, factor: float, batch: Sequence[Microbatch], sign: float
    ) -> None:
        column = 0
        for one in batch:
            gradient = one.gradients.get(block.name)
            if gradient is not None:
                scale = entries(one.scale_of(block.name), block)
                left = u if isinstance(scale, float) else u * scale
                part = self._part(gradient, block, 1)
                alpha = sign * (factor * scale if isinstance(scale, float) else factor)
                add_product(found[:, column : column + one.examples], left, part, alpha)
            column += one.examples

    def _part(self, gradient: PerExample, block: Block, place: int) -> Tensor:
        """Return a block's rows of gradients; factored ones are written out to memory that is used again and again."""
        if isinstance(gradient, Dense):
            return gradient.part(block.start, block.stop)
        count = gradient.examples * block.width
        like = gradient.rows if isinstance(gradient, Outer) else self.buffers[0]
        held = self._held[place]
        if held is None or held.numel() < count or held.dtype != like.dtype:
            held = self._held[place] = torch.empty(count, dtype=like.dtype, device=like.device)
        return gradient.part(block.start, block.stop, held[:count].view(gradient.examples, block.width))

    def hold_parameters(self) -> None:
        """Make room for the sensitivities to the parameters themselves, zero so far."""
        self.parameters = [torch.zeros_like(one) for one in self.buffers]

    def owed(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return per target what it owes to initial parameters and to initial optimizer buffers, in float64."""
        first, second = (
            torch.zeros(self.targets, dtype=torch.float64, device=self.buffers[0].device) for _ in range(2)
        )
        for index, block in enumerate(self.blocks):
            if self.parameters is not None:
                first += _times(self.parameters[index], parameters[block.name], block)
            if block.name in buffers:
                second += self.pending[block.name] * _times(self.buffers[index], buffers[block.name], block)
        return first, second


def _subtract(total: Tensor, factor: Coefficient, term: Tensor, times: float) -> None:
    if isinstance(factor, Tensor):
        total.addcmul_(term, factor, value=-times)
    elif factor:
        total.add_(term, alpha=-factor * times)


def _sensitivity(
    b: Tensor, moved: Tensor | None, kappa: Coefficient, gamma: Coefficient, pending: float
) -> tuple[Tensor, float]:
    """Return κ (pending b) - γ p as (matrix, factor), without a temporary where a matrix at hand will do."""
    if (isinstance(gamma, float) and gamma == 0.0) or moved is None:
        return (b, kappa * pending) if isinstance(kappa, float) else (b * kappa, pending)
    if isinstance(kappa, float) and kappa == 0.0:
        return (moved, -gamma) if isinstance(gamma, float) else (moved * gamma, -1.0)
    u = b * (kappa * pending)
    _subtract(u, gamma, moved, 1.0)
    return u, 1.0


def _times(rows: Tensor, parameter: Tensor, block: Block) -> Tensor:
    part = parameter.detach().reshape(-1)[block.first : block.first + block.width]
    return rows.double() @ part.to(rows.device, torch.float64)
