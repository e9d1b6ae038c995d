"""What it takes to differentiate a model's gradients once more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.gradients.fallback import kernels_for

_WEIGHT_NORM = "_weight_norm"  # in torch, what its parametrization of that name calls
_ENGINE = "_engine_run_backward"  # in torch.autograd, what forms every gradient


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Choose implementations that can be differentiated twice.

    Fused attention and recurrent kernels cannot, and what torch forms for weight normalisation is wrong.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(warnings.catch_warnings())
        # torch's own import of its forward rules, at their first use
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        stack.enter_context(kernels_for(model))
        stack.callback(setattr, torch, _WEIGHT_NORM, getattr(torch, _WEIGHT_NORM))
        setattr(torch, _WEIGHT_NORM, _weight_norm)
        if any(isinstance(one, nn.RNNBase) for one in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return a direction times a length, one length for each index of an axis (-1: one in all)."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def differentiable_once_only(gradients: Sequence[Tensor]) -> str | None:
    """Look through the graph of gradients for an end that torch would pass over in silence.

    A function marked ``once_differentiable`` leaves a node without inputs. Where unused inputs are allowed torch never
    reaches it, and what lies behind would count as zero.

    Args:
        gradients: Formed with ``create_graph=True``.

    Returns:
        What is wrong, in words, or None.
    """
    ahead = [gradient.grad_fn for gradient in gradients]
    if any(node is None for node in ahead):
        return "a gradient was formed outside of autograd."
    seen: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "Error":
            return "a function of it is marked with @once_differentiable."
        seen.add(node)
        ahead.extend(one for one, _ in node.next_functions)
    return None


def pulled_back(
    outputs: Sequence[Tensor], sources: Sequence[Tensor], along: Sequence[Float[Tensor, "targets ..."]]
) -> list[Float[Tensor, "targets ..."] | None]:
    """Bring the sensitivities of many targets back from some tensors to others, in one backward pass.

    Args:
        outputs: Where the pass begins.
        sources: Where it ends.
        along: Sensitivities to each of the outputs.

    Returns:
        Those to each of the sources; None where they are zero.
    """
    reached: list[bool] = []

    def back(*sensitivities: Tensor) -> tuple[Tensor, ...]:
        found: Sequence[Tensor | None] = torch.autograd.grad(
            outputs, sources, sensitivities, retain_graph=True, allow_unused=True
        )
        reached[:] = [one is not None for one in found]
        return tuple(one for one in found if one is not None)

    if len(along[0]) == 1:
        each = iter([one[None] for one in back(*(one[0] for one in along))])
    else:
        each = iter(torch.func.vmap(back, randomness="same")(*along))
    return [next(each) if one else None for one in reached]


def can_be_noticed() -> bool:
    """Say whether this torch forms all gradients through the function that `noticing_gradients` looks at."""
    return hasattr(torch.autograd, _ENGINE)


@contextmanager
def noticing_gradients(notice: Callable[[], None]) -> Iterator[None]:
    """Call something whenever gradients are formed inside of the ``with``, by autograd or ``torch.func``."""
    engine = getattr(torch.autograd, _ENGINE)

    def run(*args: Any, **kwargs: Any) -> Any:
        notice()
        return engine(*args, **kwargs)

    setattr(torch.autograd, _ENGINE, run)
    try:
        yield
    finally:
        setattr(torch.autograd, _ENGINE, engine)


def in_transform() -> bool:
    """Say whether a ``torch.func`` transform or forward-mode differentiation is going on."""
    forwards: int = torch.autograd.forward_ad._current_level
    return forwards >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
