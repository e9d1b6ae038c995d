"""From what the walks gave to one labelled dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from whence.audit.chunks import Chunk, Work, labels_of
from whence.audit.result import Audit
from whence.audit.storage import FORMAT

SOURCES = ("initial parameters", "initial optimizer state", "buffers", "rounding")


def assemble(work: Work, chunks: list[Chunk], influence: NDArray[Any] | None, seconds: float) -> Audit:
    """Label everything; without ``influence`` the dataset lacks that variable (it is on disk)."""
    course = torch.cat([chunk.tally.course for chunk in chunks]).numpy()
    profile = torch.cat([chunk.tally.profile for chunk in chunks]).numpy()
    explained = np.cumsum(torch.cat([chunk.tally.explained for chunk in chunks]).numpy(), 1)
    explained = np.concatenate([np.zeros_like(explained[:, :1]), explained], 1)
    weights = np.array([len(chunk) for chunk in work.chunks], dtype=np.float64)
    errors = np.stack([chunk.tally.step_error.numpy() for chunk in chunks])
    unit = {"unit": work.quantity.unit}
    variables: dict[str, Any] = {
        "profile": (("target", "layer", "epoch"), profile, unit),
        "true_change": (("target",), course[:, -1] - course[:, 0], unit),
        "residual": (("target", "source"), torch.cat([chunk.residuals for chunk in chunks]).numpy(), unit),
        "course": (("target", "point"), course, unit),
        "explained": (("target", "point"), explained, unit),
        "step_error": (("step",), np.average(errors, axis=0, weights=weights), unit),
    }
    if influence is not None:
        variables["influence"] = (work.grouping.dims, influence, unit)
    return Audit(xr.Dataset(variables, _coordinates(work, chunks), _attributes(work, seconds)))


def _coordinates(work: Work, chunks: list[Chunk]) -> dict[str, Any]:
    grouping, classes = work.grouping, work.quantity.classes
    ids = work.ids.numpy()
    target: Any = ids
    if classes is not None:
        target = np.array([f"{one}:{kind}" for one in ids for kind in classes], dtype=object)
    found: dict[str, Any] = {
        "target": target,
        "example": ("target", np.repeat(ids, work.per_example)),
        "layer": np.array(work.layers, dtype=object),
        "epoch": np.arange(grouping.epochs),
        "point": np.arange(grouping.epochs + 1),
        "step": np.arange(grouping.steps),
        "source": np.array(SOURCES, dtype=object),
    }
    if classes is not None:
        found["class"] = ("target", np.tile(np.array(classes), len(ids)))
    if "label" in grouping.by:
        found["label"] = torch.unique(work.run.examples.labels).numpy()
    else:
        found["train"] = np.arange(grouping.train)
        found |= _labels("train_label", "train", labels_of(work.run.examples), 1)
    labels = labels_of(work.examples)
    found |= _labels("target_label", "target", None if labels is None else labels[work.ids], work.per_example)
    predictions = [chunk.predictions for chunk in chunks]
    if all(one is not None for one in predictions):
        joined = torch.cat([one for one in predictions if one is not None])
        found |= _labels("prediction", "target", joined, work.per_example)
    return found


def _labels(name: str, dim: str, labels: torch.Tensor | None, repeats: int) -> dict[str, Any]:
    """Return a coordinate of labels, if there is one number an example."""
    if labels is None:
        return {}
    return {name: (dim, np.repeat(labels.cpu().numpy(), repeats))}


def _attributes(work: Work, seconds: float) -> dict[str, Any]:
    plan = work.plan
    return {
        "format": FORMAT,
        "quantity": work.quantity.name,
        "unit": work.quantity.unit,
        "helps": work.quantity.helps,
        "by": list(work.grouping.by),
        "quadrature": plan.rule.name,
        "tolerance": work.tolerance,
        "subsample": plan.subsample,
        "precision": work.precision,
        "steps": work.grouping.steps,
        "epochs": work.grouping.epochs,
        "seconds": seconds,
        "run": work.run.path.name,
        "run_identity": work.run.identity,
        "targets_fingerprint": work.examples.fingerprint,
    }
