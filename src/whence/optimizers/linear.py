"""One optimizer step of one parameter as a linear map, and its transpose."""

from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

Coefficient: TypeAlias = float | Float[Tensor, "*shape"]
"""A number, or one number per entry of the parameter."""


@final
@dataclass(frozen=True)
class LinearStep:
    """One step of an optimizer for one parameter, its scalars and preconditioner held fixed.

    Elementwise, for a share of the parameter δ, of the momentum-like buffer, and of
    the gradient (PLGK section 3.2; all in the parameter's units):

        g'   = sign * g + coupled * δ
        buf' = beta * buf + kappa * g'
        δ'   = (1 - decay) * δ - sigma * buf' - gamma * g'

    Shares add up: the parameter, the buffer and the gradient are sums of shares, so the step of
    the sum is the sum of the steps. Every method broadcasts over leading axes (training examples
    or targets): arguments have the shape ``(*leading, *parameter.shape)``.

    Attributes:
        sign: -1 if the optimizer maximizes, else 1.
        coupled: Weight decay that is added to the gradient (L2).
        beta: How much of the buffer stays.
        kappa: What of the gradient enters the buffer.
        sigma: Step along the buffer.
        gamma: Step along the gradient itself.
        decay: Weight decay that shrinks the parameter itself (decoupled), learning rate included.

    Examples:
        >>> step = LinearStep(beta=0.5, kappa=1.0, sigma=0.1)
        >>> share, buffer = step.forward(torch.zeros(1), torch.ones(1), torch.ones(1))
        >>> round(share.item(), 4), buffer.item()
        (-0.15, 1.5)
    """

    sign: float = 1.0
    coupled: float = 0.0
    beta: float = 0.0
    kappa: Coefficient = 0.0
    sigma: Coefficient = 0.0
    gamma: Coefficient = 0.0
    decay: float = 0.0

    @property
    def buffered(self) -> bool:
        """Whether the step writes or reads the buffer; if not, it leaves the buffer as it is."""
        untouched = _is(self.kappa, 0.0) and _is(self.sigma, 0.0) and self.beta == 1.0
        return not untouched

    def forward(
        self,
        share: Float[Tensor, "*axes"],
        buffer: Float[Tensor, "*axes"],
        gradient: Float[Tensor, "*axes"],
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
        """Return the share of the parameter and of the buffer after the step.

        Args:
            share: Share of the parameter before the step.
            buffer: Share of the buffer before the step.
            gradient: Share of the gradient that the optimizer saw (already scaled and clipped).

        Returns:
            Both shares after the step. They may be the arguments themselves: do not write
            into them.
        """
        g = _total((self.sign, gradient), (self.coupled, share))
        new_buffer = _total((self.beta, buffer), (self.kappa, g))
        new_share = _total((1 - self.decay, share), (-self.sigma, new_buffer), (-self.gamma, g))
        return new_share, new_buffer

    def transpose(
        self, p: Float[Tensor, "*axes"], b: Float[Tensor, "*axes"]
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
        """Walk sensitivities back over the step (the transpose of `forward`).

        In the audit, p holds the quadrature's gradient h̄ when it comes in; the caller takes h̄
        off ``p_before`` again, because only the change of the share counts.

        Args:
            p: Sensitivity to the share of the parameter after the step.
            b: Sensitivity to the share of the buffer after the step.

        Returns:
            ``(p_before, b_before, u)``: the sensitivities to the parameter's share, the buffer's
            share and the gradient's share before the step. They may be the arguments themselves:
            do not write into them.
        """
        to_buffer = _total((1.0, b), (-self.sigma, p))
        to_g = _total((self.kappa, to_buffer), (-self.gamma, p))
        p_before = _total((1 - self.decay, p), (self.coupled, to_g))
        b_before = _total((self.beta, to_buffer))
        return p_before, b_before, _total((self.sign, to_g))

    def to(self, dtype: torch.dtype) -> "LinearStep":
        """Return the step with its per-entry coefficients in another floating-point type."""
        coefficients = (self.kappa, self.sigma, self.gamma)
        if all(isinstance(value, float) or value.dtype == dtype for value in coefficients):
            return self
        kappa, sigma, gamma = (value if isinstance(value, float) else value.to(dtype) for value in coefficients)
        return replace(self, kappa=kappa, sigma=sigma, gamma=gamma)


def _is(scale: Coefficient, value: float) -> bool:
    """Whether a coefficient is this number for all entries (without looking at tensors)."""
    return isinstance(scale, float) and scale == value


def _total(*terms: tuple[Coefficient, Float[Tensor, "*axes"]]) -> Float[Tensor, "*axes"]:
    """Sum coefficient * tensor; terms with coefficient 0 cost nothing."""
    total: Tensor | None = None
    for scale, tensor in terms:
        if _is(scale, 0.0):
            continue
        if total is None:
            total = tensor if _is(scale, 1.0) else scale * tensor
        elif isinstance(scale, float):
            total = torch.add(total, tensor, alpha=scale)
        else:
            total = torch.addcmul(total, scale, tensor)
    return torch.zeros_like(terms[0][1]) if total is None else total
