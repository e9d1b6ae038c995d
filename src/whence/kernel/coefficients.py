"""How far the loss gradients of examples reach along the modes of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from whence._progress import progress
from whence.kernel.matrix import GradientMatrix
from whence.kernel.modes import Modes, standing
from whence.kernel.questions import Labels, asked
from whence.kernel.trained import Trained
from whence.runs import Run


def coefficients(
    modes: Modes,
    source: Run | Trained,
    examples: Any,
    *,
    ids: Sequence[int] | None = None,
    labels: Labels = "given",
    step: int | None = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Return the mode coefficients c_kn = v_k · h_n of examples, h_n being the gradient of their loss.

    The change of example n's loss in a small step of gradient descent on all training examples is -η/M Σ_k Λ_k c_kn
    over all modes (PLGK, section 6.3).

    Args:
        modes: The modes.
        source: The run whose modes they are, or a trained model.
        examples: Anything `as_examples` takes; with ``labels="predicted"``, a tensor of inputs will do.
        ids: Which of the examples; all when left out.
        labels: ``"given"``, or ``"predicted"`` for the loss of the model's own answer.
        step: The state, as in `modes`. When left out, that of the modes (of a trained model: as it is).
        memory_budget: Bytes that gradients may take.

    Returns:
        Dims ``("example", "mode")``.

    Raises:
        ArgumentError: If labels are missing, the model is not that of the modes, or an argument is outside what it may
            be.
        DataError: If the data is of a kind that cannot be read.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    trained = standing_with(modes, source, step)
    found, chosen = asked(examples, ids, labels, trained)
    matrix = GradientMatrix(trained, found, chosen, trained.loss.per_example, modes.names, memory_budget)
    with progress("coefficients", len(chosen)) as advance:
        values = matrix.times(modes.directions.to(matrix.device, matrix.dtype).T, advance)
    return labelled(values, chosen, "coefficient", "units of loss per unit step along the mode")


def standing_with(modes: Modes, source: Run | Trained, step: int | None) -> Trained:
    """Return the model at the state asked for, by default that of the modes.

    Raises:
        ArgumentError: If the model is not that of the modes, or there is no such state.
    """
    trained, _ = standing(source, modes.step if step is None and isinstance(source, Run) else step)
    modes.layout.check(trained.model)
    return trained


def labelled(values: Tensor, examples: Sequence[int], name: str, unit: str) -> xr.DataArray:
    """Label numbers, one a pair of example and mode."""
    coords = {"example": np.asarray(examples), "mode": np.arange(values.shape[1])}
    return xr.DataArray(values.detach().cpu().numpy(), coords, ("example", "mode"), name, {"unit": unit})
