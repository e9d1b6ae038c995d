"""Running averages of batch normalisation: how they follow from the parameters, and what depends on them at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import GradientError
from whence.runs import ModelState, Run

_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MEAN, _VARIANCE = "running_mean", "running_var"
_AGREES = 1e-4  # relative; by how much an average formed here may miss the one that the layer formed


def averaging(model: nn.Module) -> dict[str, Any]:
    """Return the layers of a model that keep running averages of what they normalise by, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS) and _is_plain(module) and module.running_mean is not None
    }


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer computes as torch's does."""
    kind = type(module)
    own = kind.forward is nn.BatchNorm1d.forward and kind.__call__ is nn.Module.__call__
    return own and "forward" not in vars(module)


def refuse_changing_modes(run: Run) -> None:
    """Refuse a run in which averages were first moved and then normalised by: gradients depended on them.

    Raises:
        GradientError: If there is such a layer.
    """
    layers = averaging(run.model)
    if not layers:
        return
    places = {name: place for place, (name, _) in enumerate(run.model.named_modules()) if name in layers}
    moved: set[str] = set()
    for step in range(run.steps):
        for modes in run.record_of(step).modes:
            for name, place in places.items():
                if modes.training[place] == "1":
                    moved.add(name)
                elif name in moved:
                    raise GradientError(
                        f"The layer {name!r} was in evaluation mode at step {step}, after it had moved its running "
                        "averages in training mode: what a step does through averages that it normalises by is not "
                        "walked back. Keep batch normalisation in one mode while training."
                    )


def end_gradients(
    model: nn.Module, gradients: Mapping[str, Tensor], end: ModelState
) -> dict[str, Float[Tensor, "targets _"]]:
    """Return the gradients with respect to running averages, from those with respect to the layers' own parameters.

    In evaluation mode a layer gives y = γ (x − μ) (σ² + ε)^(−½) + β. With e the gradient with respect to y, ∂q/∂β = Σ e
    and ∂q/∂γ = Σ e (x − μ) (σ² + ε)^(−½), so that ∂q/∂μ = −γ (σ² + ε)^(−½) ∂q/∂β and ∂q/∂σ² = −½ γ (σ² + ε)^(−1)
    ∂q/∂γ.

    Args:
        model: The model.
        gradients: With respect to its parameters, (targets, *shape). Layers without any are left out.
        end: Parameters and buffers, with which the model is in evaluation mode.
    """
    found = {}
    for name, layer in averaging(model).items():
        if not _has_own(model, layer):
            continue
        by_scale, by_shift = gradients[f"{name}.weight"], gradients[f"{name}.bias"]
        scale = end.parameters[f"{name}.weight"].to(by_scale)
        wide = end.buffers[f"{name}.{_VARIANCE}"].to(by_scale) + layer.eps
        found[f"{name}.{_MEAN}"] = -scale * wide.rsqrt() * by_shift
        found[f"{name}.{_VARIANCE}"] = -0.5 * scale / wide * by_scale
    return found


def _has_own(model: nn.Module, layer: Any) -> bool:
    """Return whether a layer has a weight and a bias that no other module has too."""
    mine = [dict(layer.named_parameters(recurse=False)).get(kind) for kind in ("weight", "bias")]
    held = [id(one) for module in model.modules() for one in module.parameters(recurse=False)]
    return all(one is not None and held.count(id(one)) == 1 for one in mine)


@dataclass(frozen=True)
class _Call:
    """One call of a layer: its averages move by ``share`` towards these statistics of its input."""

    share: float
    mean: Tensor
    variance: Tensor


@final
class Averages:
    """Follows how one forward pass moves the running averages, as functions of the parameters.

    Args:
        model: The model; hooks are on it inside `watching`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = averaging(model)
        self._own = {name for name, layer in self._layers.items() if _has_own(model, layer)}
        self._calls: dict[str, list[_Call | None]] = {}  # None: in evaluation mode

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Enter around the forward pass.

        Raises:
            GradientError: If a layer has no parameters of its own, or changes its mode on the way.
        """
        self._calls = {name: [] for name in self._layers}
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                calls = self._calls[name]

                def note(
                    module: Any,
                    args: tuple[Any, ...],
                    kwargs: dict[str, Any],
                    name: str = name,
                    calls: list[_Call | None] = calls,
                ) -> None:
                    inputs = args[0] if args else kwargs["input"]
                    calls.append(_called(module, inputs) if module.training else None)
                    self._check(name, calls)

                stack.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield

    def _check(self, name: str, calls: list[_Call | None]) -> None:
        if any(calls) and None in calls:
            raise GradientError(
                f"The layer {name!r} was called in training and in evaluation mode in one forward pass: what the one "
                "does to the other through its running averages is not walked back. Keep it in one mode."
            )
        if any(calls) and name not in self._own:
            raise GradientError(
                f"The layer {name!r} is a batch normalisation without a weight and a bias of its own (affine=False, "
                "shared, or parametrised): what its running averages do to the end is found from these. Give it some."
            )

    def explain(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
        """Return the buffers whose change is that of a running average."""
        explained = set()
        for name, calls in self._calls.items():
            for kind in (_MEAN, _VARIANCE):
                key = f"{name}.{kind}"
                value = before[key]
                for call in filter(None, calls):
                    statistic = (call.mean if kind == _MEAN else call.variance).detach()
                    value = (1 - call.share) * value + call.share * statistic
                size = float(after[key].abs().max())
                if kind == _MEAN:  # it may be nothing but rounding
                    size += float(after[f"{name}.{_VARIANCE}"].max().sqrt())
                if torch.allclose(value, after[key], rtol=_AGREES, atol=_AGREES * size):
                    explained.add(key)
        return explained

    def pull(self, owed: dict[str, Float[Tensor, "targets _"]]) -> list[tuple[Tensor, Float[Tensor, "targets _"]]]:
        """Bring sensitivities to the averages back over the forward pass.

        Args:
            owed: Sensitivities after it, by buffer; replaced by those before it.

        Returns:
            Statistics that depend on the parameters, and the sensitivities to them.
        """
        found = []
        for name, calls in self._calls.items():
            for kind in (_MEAN, _VARIANCE):
                for call in filter(None, reversed(calls)):
                    after = owed.get(f"{name}.{kind}")
                    if after is None:
                        continue
                    statistic = call.mean if kind == _MEAN else call.variance
                    if statistic.requires_grad:
                        found.append((statistic, call.share * after))
                    owed[f"{name}.{kind}"] = (1 - call.share) * after
        return found


def _called(layer: Any, inputs: Tensor) -> _Call:
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    share = layer.momentum if layer.momentum is not None else 1.0 / (int(layer.num_batches_tracked) + 1)
    return _Call(share, inputs.mean(axes), inputs.var(axes, correction=1))
