"""Whether a model can be recorded and opened again as it is, and private copies of it."""

import copy
from collections.abc import Iterator
from pickle import PicklingError

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.weight_norm import WeightNorm

from whence._errors import ArgumentError, RecordingError
from whence.runs.trees import leaves

_UNCOPIED = (RuntimeError, TypeError, ValueError, AttributeError, PicklingError)


def unfit(model: nn.Module) -> str | None:
    """Return why a model can be neither recorded nor opened, and what to do; None if nothing is wrong with it."""
    lazy = [name for name, tensor in _tensors(model) if is_lazy(tensor)]
    if lazy:
        return (
            f"The model {type(model).__name__} has tensors without a shape yet: {', '.join(lazy[:4])}. Call it once on "
            "a batch, under torch.no_grad(), before it is given to Whence."
        )
    for name, module in model.named_modules():
        if any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()):
            return (
                f"The layer {name!r} was made with torch.nn.utils.weight_norm, which keeps a computed weight that "
                "cannot be copied. Use torch.nn.utils.parametrizations.weight_norm."
            )
    for name, buffer in model.named_buffers():
        if not _is_kept(buffer.dtype):
            kind = str(buffer.dtype).removeprefix("torch.")
            return (
                f"The buffer {name!r} is {kind}, which a snapshot cannot hold. Keep another type: for complex128 "
                "complex64, or the float64 that torch.view_as_real gives."
            )
    return None


def check_copied(model: nn.Module) -> None:
    """Check that a model can be copied, as it is when its run is opened; tensors and hooks are left out of that.

    Raises:
        RecordingError: If not.
    """
    left_out = [tensor for _, tensor in _tensors(model)]
    left_out += [value for module in model.modules() for key, value in vars(module).items() if "_hooks" in key]
    try:
        copy.deepcopy(model, {id(one): one for one in left_out})
    except _UNCOPIED as error:
        raise RecordingError(_uncopied(model, error)) from error


def model_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model, also of one that keeps what it computed with gradients, such as attention weights."""
    computed = [tensor for module in model.modules() for tensor in leaves(vars(module)) if tensor.grad_fn is not None]
    return copy.deepcopy(model, {id(one): one.detach().clone() for one in computed})


def private_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose tensors can all be written to.

    Raises:
        ArgumentError: If it cannot be copied.
    """
    try:
        own = model_copy(model)
    except _UNCOPIED as error:
        raise ArgumentError(_uncopied(model, error)) from error
    own_memory(own)
    return own


def own_memory(model: nn.Module) -> None:
    """Give each tensor that was expanded, so that its entries share memory and cannot be written to, its own."""
    for _, tensor in _tensors(model):
        if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
            tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _is_kept(dtype: torch.dtype) -> bool:
    try:
        save_tensors({"tensor": torch.empty(0, dtype=dtype)})
    except KeyError:
        return False
    return True


def _uncopied(model: nn.Module, error: Exception) -> str:
    return (
        f"The model {type(model).__name__} cannot be copied by deepcopy: {str(error).rstrip('.')}. Keep nothing in "
        "it that was computed with gradients, such as the last outputs, and no generators, open files or locks."
    )
