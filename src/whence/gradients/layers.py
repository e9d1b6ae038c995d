"""Which modules of a model to watch, for which parameters, and where their examples stand."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import final

from torch import nn
from torch.nn.utils import parametrize

from whence._errors import GradientError
from whence.gradients.calls import Rule
from whence.gradients.registry import COMPOSITE, rule_of


@final
@dataclass(frozen=True, eq=False)
class Layer:
    """A module to watch.

    Args:
        name: Path of the module in the model.
        module: The module.
        rule: How its gradients are formed.
        parameters: From wanted parameters, named within the module, to their names in the model.
        axis: Where the examples stand in its tensors.
    """

    name: str
    module: nn.Module
    rule: Rule
    parameters: dict[str, str]
    axis: int


def layers_of(model: nn.Module, names: Collection[str], *, frozen: bool = False) -> list[Layer]:
    """Return the modules that own the named parameters and can give them gradients.

    A parameter shared by several modules is listed with each of them, under one name. Frozen
    parameters are left out unless ``frozen``.

    Raises:
        GradientError: If a name is no parameter of the model, or a layer cannot be handled.
    """
    wanted = canonical(model, names)
    axes = example_axes(model)
    found = []
    for name, module in owners(model):
        parameters = {
            inner: wanted[id(parameter)]
            for inner, parameter in owned(module).items()
            if id(parameter) in wanted and (frozen or parameter.requires_grad)
        }
        if parameters:
            refuse_unsupported(name, module)
            found.append(Layer(name, module, rule_of(module), parameters, axes.get(module, 0)))
    return found


def canonical(model: nn.Module, names: Collection[str]) -> dict[int, str]:
    """Return the wanted name of each parameter, by identity; of several names the first counts.

    Raises:
        GradientError: If a name is no parameter of the model.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    for name in names:
        if name not in known:
            near = " or ".join(get_close_matches(name, known)) or "none is close"
            raise GradientError(
                f"The model has no parameter {name!r} among its {len(known)} (similar: {near}). "
                "Take the names from model.named_parameters()."
            )
    asked = set(names)
    found: dict[int, str] = {}
    for name, parameter in known.items():
        if name in asked:
            found.setdefault(id(parameter), name)
    return found


def owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that own parameters, without the insides of those taken as a whole."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, COMPOSITE):
            inside.update(module.modules())
        elif parametrize.is_parametrized(module) and isinstance(module.parametrizations, nn.Module):
            inside.update(module.parametrizations.modules())
        yield name, module


def owned(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that the module itself uses, named within it."""
    if isinstance(module, COMPOSITE):
        return dict(module.named_parameters(remove_duplicate=False))
    found = dict(module.named_parameters(recurse=False))
    if parametrize.is_parametrized(module) and isinstance(module.parametrizations, nn.Module):
        inner = module.parametrizations.named_parameters(prefix="parametrizations")
        found.update(inner)
    return found


def example_axes(model: nn.Module) -> dict[nn.Module, int]:
    """Return axis 1 for torch's sequence-first modules and all inside them."""
    axes: dict[nn.Module, int] = {}
    for module in model.modules():
        if sequence_first(module):
            axes.update(dict.fromkeys(module.modules(), 1))
    return axes


def sequence_first(module: nn.Module) -> bool:
    """Say whether the module's tensors are (sequence, examples, features)."""
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        return any(sequence_first(layer) for layer in module.layers)
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return not module.self_attn.batch_first
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.Transformer):
        return not module.batch_first
    return False


def refuse_unsupported(name: str, module: nn.Module) -> None:
    """Refuse layers whose gradients have no meaning by example.

    Raises:
        GradientError: If the layer changes its own weights while it computes.
    """
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise GradientError(
            f"Layer {name!r} (Embedding) has max_norm={module.max_norm}, which rewrites the weights "
            "during the forward pass. Build it with max_norm=None."
        )
    if isinstance(module, nn.SyncBatchNorm):
        raise GradientError(
            f"Layer {name!r} is a SyncBatchNorm, whose examples are spread over processes. Use "
            "BatchNorm1d, BatchNorm2d or BatchNorm3d."
        )
