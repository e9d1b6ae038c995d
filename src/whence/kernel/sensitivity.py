"""How strongly the inputs of examples move their mode coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._numbers import even_parts
from whence._progress import Advance, progress
from whence.kernel.coefficients import labelled, standing_with
from whence.kernel.matrix import GradientMatrix
from whence.kernel.modes import Modes
from whence.kernel.questions import Labels, asked
from whence.kernel.slopes import Slopes
from whence.kernel.trained import Trained
from whence.runs import Run, cast_floating, to_device


def input_sensitivity(
    modes: Modes,
    source: Run | Trained,
    examples: Any,
    *,
    ids: Sequence[int] | None = None,
    labels: Labels = "given",
    step: int | None = None,
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Return how strongly each example's input moves its mode coefficients, ‖∇_x c_kn‖₂ (PLGK, figures 16 and 17).

    The corrected one is divided by ‖h_n‖, the norm of the example's loss gradient in the modes' parameters, with which
    coefficients grow: examples of high loss are then not more sensitive for that alone. It is NaN where h_n is zero.

    Args:
        modes: The modes.
        source: The run whose modes they are, or a trained model.
        examples: Anything `as_examples` takes; with ``labels="predicted"``, a tensor of inputs will do.
        ids: Which of the examples; all when left out.
        labels: ``"given"``, or ``"predicted"`` for the loss of the model's own answer.
        step: The state, as in `coefficients`.
        memory_budget: Bytes that gradients and activations may take.

    Returns:
        Variables ``raw`` and ``corrected``, dims ``("example", "mode")``.

    Raises:
        ArgumentError: If labels are missing, no input is a floating-point tensor, the model is not that of the modes,
            or an argument is outside what it may be.
        DataError: If the data is of a kind that cannot be read.
        GradientError: If the model cannot be differentiated example by example, or not twice.
    """
    trained = standing_with(modes, source, step)
    found, chosen = asked(examples, ids, labels, trained)
    matrix = GradientMatrix(trained, found, chosen, trained.loss.per_example, modes.names, memory_budget)
    directions = modes.directions.to(matrix.device, matrix.dtype)
    raw = []
    with progress("input sensitivity", len(chosen) * len(modes)) as advance:
        for part in even_parts(range(len(chosen)), matrix.rows_at_once):
            inputs, own = to_device(found.batch(chosen[part.start : part.stop]), matrix.device)
            slopes = Slopes(
                modes.layout, trained.model, trained.loss.per_example, cast_floating(inputs, matrix.dtype), own
            )
            raw.append(_norms(slopes, directions, advance))
    unit = "units of loss per unit step along the mode and unit of input"
    sizes = torch.cat([block.norm(dim=1) for _, block in matrix.blocks(lambda _rows: None)])
    values = torch.cat(raw)
    return xr.Dataset(
        {
            "raw": labelled(values, chosen, "raw", unit),
            "corrected": labelled(values / sizes[:, None], chosen, "corrected", "per unit of input"),
        }
    )


def _norms(
    slopes: Slopes, directions: Float[Tensor, "modes parameters"], advance: Advance
) -> Float[Tensor, "examples modes"]:
    columns = []
    for direction in directions:
        along = torch.cat([one.flatten(1) for one in slopes.along(direction)], 1)
        columns.append(along.norm(dim=1))
        advance(len(along))
    return torch.stack(columns, 1)
