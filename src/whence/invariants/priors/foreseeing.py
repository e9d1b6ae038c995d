"""Where a chain of diffusers would end, as its model's prediction at one step foresees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whence._errors import ArgumentError


def foreseen(scheduler: Any, result: Any, prediction: Tensor, state: Tensor, step: int, time: Tensor) -> Tensor:
    """Return the end of a chain, denoised in one go from a state.

    The scheduler's own word is taken where it gives one. Else a state is a * end + s * noise: of schedulers whose
    first state is longer than noise a is 1 and s its sigma; of flows a is 1 - sigma; of others a² + s² is 1.

    Args:
        scheduler: Of diffusers, set to its steps.
        result: What its step gave.
        prediction: Of the model at the state.
        state: Before the step.
        step: Which.
        time: That the model was told.

    Raises:
        ArgumentError: If the scheduler does not tell what the prediction means.
    """
    for name in ("pred_original_sample", "denoised"):
        if (known := getattr(result, name, None)) is not None:
            return torch.as_tensor(known).to(state.dtype)
    prediction = prediction[:, : state.shape[1]]
    kind = getattr(scheduler.config, "prediction_type", None)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and _flows(scheduler):
        end: Tensor = state - sigmas[step].to(state) * prediction
        return end
    if sigmas is not None and not hasattr(scheduler, "precondition_outputs"):
        sigma = sigmas[step].to(state)
        share, rest = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        own = state * share if float(scheduler.init_noise_sigma) > 1 else state
    elif (products := getattr(scheduler, "alphas_cumprod", None)) is not None:
        share = products[int(time)].to(state).sqrt()
        rest, own = (1 - share**2).sqrt(), state
    else:
        kind = None
    if kind == "epsilon":
        return torch.as_tensor((own - rest * prediction) / share)
    if kind == "v_prediction":
        return torch.as_tensor(share * own - rest * prediction)
    if kind == "sample":
        return prediction
    raise ArgumentError(
        f"{type(scheduler).__name__} does not tell what a prediction of its model means for the end, so its chain "
        "cannot be guided. Take DDIMScheduler, EulerDiscreteScheduler or FlowMatchEulerDiscreteScheduler."
    )


def _flows(scheduler: Any) -> bool:
    """Say whether a scheduler walks straight lines from noise to data."""
    return "Flow" in type(scheduler).__name__ or bool(getattr(scheduler.config, "use_flow_sigmas", False))
