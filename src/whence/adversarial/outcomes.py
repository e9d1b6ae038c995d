"""What the network makes of groups of inputs: answers, losses over the training, sizes and directions of changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from whence._progress import progress
from whence.adversarial.groups import CLEAN, Groups, lengths
from whence.datasets import call_model
from whence.kernel import Trained, as_trained
from whence.kernel.moments import ends_of_epochs, steps_of, trained_at
from whence.runs import Run, check_run


def outcomes(source: Run | Trained, groups: Groups) -> xr.Dataset:
    """Return answers and changes of every input (PLGK, table 2).

    Args:
        source: The run, taken at its end, or a trained model.
        groups: The inputs.

    Returns:
        Dims ``("group", "example")``: ``answer``, the class that the network gives; ``right``, whether it is the label;
        ``loss``; ``size``, Euclidean length of the change from the clean input.
    """
    trained = as_trained(source)
    rows: dict[str, list[Any]] = {"answer": [], "right": [], "loss": [], "size": []}
    for name in groups.names:
        with torch.no_grad():
            outputs = call_model(trained.model, groups.inputs[name])
        answers = outputs.argmax(1)
        rows["answer"].append(answers.cpu().numpy())
        rows["right"].append((answers == groups.labels).cpu().numpy())
        rows["loss"].append(trained.loss.per_example(outputs, groups.labels).cpu().numpy())
        rows["size"].append(lengths(groups.change(name)).cpu().numpy())
    coords = {"group": list(groups.names), "example": np.asarray(groups.ids)}
    return xr.Dataset({name: (("group", "example"), np.stack(one)) for name, one in rows.items()}, coords)


def loss_over_time(run: Run, groups: Groups, *, times: Sequence[int] | None = None) -> xr.DataArray:
    """Return the loss of every input at states of a run (PLGK, figures 12 and 19).

    Args:
        run: The recorded run.
        groups: The inputs.
        times: The states, after so many steps; the start and the ends of the epochs if left out.

    Returns:
        Dims ``("time", "group", "example")``.

    Raises:
        ArgumentError: If the run has no such states.
    """
    check_run(run, "A loss over time")
    steps = [0, *ends_of_epochs(run)] if times is None else list(steps_of(run, times, name="times", least=0))
    with progress("losses", len(steps)) as advance:
        found = []
        for trained in trained_at(run, steps):
            found.append(outcomes(trained, groups)["loss"])
            advance(1)
    return xr.concat(found, "time").assign_coords(time=steps)


def agreement(groups: Groups, first: str, second: str) -> xr.DataArray:
    """Return the cosine of two changes of every input: from clean to ``first``, and from ``first`` to ``second``.

    -1 where the second undoes the first (PLGK, section 6.3: a cure's is -0.3 on average).

    Args:
        groups: The groups.
        first, second: Which.

    Raises:
        ArgumentError: If there is no such group.
    """
    groups.only([first, second])
    attack = groups.inputs[first] - groups.inputs[CLEAN]
    after = groups.inputs[second] - groups.inputs[first]
    values = F.cosine_similarity(attack.flatten(1), after.flatten(1))
    return xr.DataArray(values.cpu().numpy(), {"example": np.asarray(groups.ids)}, ("example",))
