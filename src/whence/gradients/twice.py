"""What it takes to differentiate a model's gradients once more."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.gradients.fallback import kernels_for


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Choose implementations that can be differentiated twice: fused attention and recurrent kernels cannot."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(warnings.catch_warnings())
        # torch's own import of its forward rules, at their first use
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        stack.enter_context(kernels_for(model))
        if any(isinstance(one, nn.RNNBase) for one in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


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
