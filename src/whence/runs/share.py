"""With which factor an example's loss enters the loss of its batch."""

from typing import Any

import torch
from torch import Tensor

from whence._errors import UnsupportedLossError
from whence.runs.loss import WAY_OUT, TrainingLoss
from whence.runs.trees import leaves

_ROUNDINGS = 32  # by which a sum of losses may miss: log2 of a batch's size, and some for the losses themselves
_SAME = 1e-4  # relative; what misses by more, as in bfloat16, may be another share and is taken as it is
_CANCELS = 1e-2  # losses of both signs whose sum is so small a part of their sizes do not tell the factor


def share_of(whole: Tensor, each: Tensor, outputs: Any, microbatches: int) -> float:
    """Return the factor c with which every example enters the loss of a batch: whole = c Σ each.

    It is 1/n of a mean and 1 of a sum, divided by the number of microbatches where the loop does so; of a mean with
    class weights or ignored positions, whatever their weights add up to. Where losses of both signs cancel, their
    gradients with respect to the outputs tell it; where these are all 0 too, nothing does, and it is that of a mean.

    Args:
        whole: The batch's loss, a 0-dim tensor.
        each: The examples' losses, (batch,).
        outputs: Of the model, from which both were computed.
        microbatches: How many batches the step accumulated.
    """
    total, size = (float(one.sum()) for one in (each.detach().double(), each.detach().double().abs()))
    tells = abs(total) > _CANCELS * size
    found = float(whole.detach()) / total if tells else _by_gradients(whole, each, outputs)
    usual = [1 / (len(each) ** mean * microbatches**divided) for mean in (1, 0) for divided in (0, 1)]
    if found is None:
        return usual[0]
    nearest = min(usual, key=lambda share: abs(share - found))
    eps = max(torch.finfo(one.dtype).eps for one in (whole, each))
    rounding = min(_SAME, _ROUNDINGS * eps * (size / abs(total) if tells else 1))
    return nearest if abs(nearest - found) <= rounding * nearest else found


def check_shared(loss: TrainingLoss, whole: Tensor, each: Tensor, outputs: Any) -> None:
    """Check that the loss of a batch is a multiple of the sum of its examples' losses, whatever the outputs.

    It is where their gradients with respect to the outputs are. A loss whose reduction is torch's own is taken at its
    word.

    Args:
        loss: The loss.
        whole: The batch's loss, a 0-dim tensor.
        each: The examples' losses, (batch,).
        outputs: Of the model, from which both were computed.

    Raises:
        UnsupportedLossError: If it is not, as of a weighted mean in a callable.
    """
    found = None if loss.proved else _gradients(whole, each, outputs)
    if found is None:
        return
    theirs, ours = found
    norm = float(ours @ ours)
    share = float(ours @ theirs) / norm if norm else 1.0
    eps = max(torch.finfo(one.dtype).eps for one in (whole, each, *leaves(outputs)) if one.is_floating_point())
    least = _ROUNDINGS * eps * abs(share)  # losses near 0 have gradients that are rounding
    far = float((theirs - share * ours).abs().max())
    if far > max(_SAME, _ROUNDINGS * eps) * float(theirs.abs().max()) + least:
        raise UnsupportedLossError(
            f"The loss {loss.name} is neither a mean nor a sum over examples: on a batch of {len(each)} its gradient "
            "with respect to the outputs is no multiple of that of the sum of its examples' own losses; it misses the "
            f"nearest one by {far:.3g} where its largest entry is {float(theirs.abs().max()):.3g}. {WAY_OUT}"
        )


def _by_gradients(whole: Tensor, each: Tensor, outputs: Any) -> float | None:
    """Return the factor between the gradients of a batch's loss and of the sum of losses; None if there are none."""
    found = _gradients(whole, each, outputs)
    if found is None:
        return None
    theirs, ours = found
    norm = float(ours @ ours)
    return float(ours @ theirs) / norm if norm else None


def _gradients(whole: Tensor, each: Tensor, outputs: Any) -> tuple[Tensor, Tensor] | None:
    """Return the gradients of a batch's loss and of the sum of losses with respect to the outputs, in float64."""
    kept = [leaf for leaf in leaves(outputs) if leaf.requires_grad]
    if not kept or not whole.requires_grad:
        return None
    theirs, ours = (
        torch.cat([one.detach().double().reshape(-1) for one in found])
        for found in (
            torch.autograd.grad(loss, kept, retain_graph=True, materialize_grads=True) for loss in (whole, each.sum())
        )
    )
    return theirs, ours
