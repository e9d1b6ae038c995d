"""Other libraries' scores of training examples, in one convention: positive = without the example the loss would rise.

Each function takes a trained network and settings by name, and returns a matrix (targets, train) for each setting. The
libraries come with ``pip install "whence[baselines]"``, and kronfluence with ``pip install --no-deps kronfluence``.
None of their scores is in nats; only their order is compared.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._networks import Data
from whence._extras import require
from whence.runs import Run

State = dict[str, Tensor]
Settings = Mapping[str, Mapping[str, Any]]
Scores = dict[str, NDArray[Any]]
_EXTRA = "baselines"
_BATCH = 250


@dataclass(frozen=True)
class Case:
    """A trained network whose targets are to be explained.

    Attributes:
        make: Makes the network, untrained, in evaluation mode.
        checkpoints: States along the training, evenly spaced; the last is its end.
        rate: The learning rate.
        ends: The ends of trainings with other seeds, this one's first.
        data: The training data.
        targets: What is explained.
        run: The recording of the training.
    """

    make: Callable[[], nn.Module]
    checkpoints: tuple[State, ...]
    rate: float
    ends: tuple[State, ...]
    data: Data
    targets: Data
    run: Run

    def model(self) -> nn.Module:
        """Return the network as trained."""
        model = self.make()
        model.load_state_dict(self.checkpoints[-1])
        return model


def over_checkpoints(each: list[NDArray[Any]], settings: Settings) -> Scores:
    """Return the sums over the last so many checkpoints."""
    return {name: np.sum(each[-one["checkpoints"] :], axis=0) for name, one in settings.items()}


def tracin(case: Case, settings: Settings) -> Scores:
    """TracIn over all layers (captum)."""
    return over_checkpoints([_tracin(case, state, fast=False) for state in case.checkpoints], settings)


def tracin_last_layer(case: Case, settings: Settings) -> Scores:
    """TracIn over the weight of the last layer (captum's TracInCPFast)."""
    return over_checkpoints([_tracin(case, state, fast=True) for state in case.checkpoints], settings)


def _tracin(case: Case, state: State, *, fast: bool) -> NDArray[Any]:
    """Return captum's scores at one checkpoint: the sum over checkpoints is TracIn."""
    influence = require("captum.influence", _EXTRA)
    model, loss = case.make(), nn.CrossEntropyLoss(reduction="sum")
    loader = batches_of(case.data, _BATCH)

    def load(into: nn.Module, state: State) -> float:
        into.load_state_dict(state)
        return case.rate

    if fast:
        last = list(model.children())[-1]
        scorer = influence.TracInCPFast(model, last, loader, [state], load, loss)
    else:
        scorer = influence.TracInCP(model, loader, [state], load, None, loss, sample_wise_grads_per_batch=True)
    return as_array(scorer.influence(case.targets))


def kronfluence_ekfac(case: Case, settings: Settings) -> Scores:
    """Influence functions with an EK-FAC inverse (kronfluence)."""
    analyzer, arguments = require("kronfluence.analyzer", _EXTRA), require("kronfluence.arguments", _EXTRA)
    task = _kronfluence_task()
    model = analyzer.prepare_model(case.model(), task)
    train, query = TensorDataset(*case.data), TensorDataset(*case.targets)
    found: Scores = {}
    with tempfile.TemporaryDirectory() as folder:
        one = analyzer.Analyzer(
            "peers", model, task, cpu=True, log_level=logging.ERROR, disable_tqdm=True, output_dir=folder
        )
        torch.manual_seed(0)  # it draws labels
        one.fit_all_factors("ekfac", train, per_device_batch_size=_BATCH)
        for place, (name, setting) in enumerate(settings.items()):
            one.compute_pairwise_scores(
                scores_name=f"scores{place}",
                factors_name="ekfac",
                query_dataset=query,
                train_dataset=train,
                per_device_query_batch_size=len(query),
                per_device_train_batch_size=_BATCH,
                score_args=arguments.ScoreArguments(damping_factor=setting["damping"]),
            )
            found[name] = as_array(one.load_pairwise_scores(f"scores{place}")["all_modules"])
    return found


def _kronfluence_task() -> Any:
    """Return the task that kronfluence asks for: the summed loss, with labels drawn for the true Fisher matrix."""

    class Classification(require("kronfluence.task", _EXTRA).Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Data, model: nn.Module, sample: bool = False) -> Tensor:
            out, labels = model(batch[0]), batch[1]
            if sample:
                labels = torch.multinomial(out.detach().softmax(-1), 1).flatten()
            return F.cross_entropy(out, labels, reduction="sum")

        def compute_measurement(self, batch: Data, model: nn.Module) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    return Classification()


def dattri_ekfac(case: Case, settings: Settings) -> Scores:
    """Influence functions with an EK-FAC inverse (dattri as released)."""
    functions = require("dattri.algorithm.influence_function", _EXTRA)
    return _dattri_damped(case, settings, functions.IFAttributorEKFAC(_dattri_task(case)))


def dattri_ekfac_repaired(case: Case, settings: Settings) -> Scores:
    """The same, two slips of dattri 0.3.0 put right.

    It takes the columns that ``eigh`` returns for rows, and puts a layer's bias behind its flattened weight where it
    belongs behind each row.
    """
    functions, fisher = (require(f"dattri.{name}", _EXTRA) for name in ("algorithm.influence_function", "func.fisher"))
    attributor = functions.IFAttributorEKFAC(_dattri_task(case))
    columns, transform, order = fisher.estimate_eigenvector, attributor.transform_test_rep, _bias_behind_rows(case)

    def rows(covariances: Any) -> Any:
        return {layer: tuple(one.T for one in both) for layer, both in columns(covariances).items()}

    def transform_in_order(ckpt_idx: int, test_rep: Tensor) -> Tensor:
        found: Tensor = transform(ckpt_idx, test_rep[:, order])
        return found[:, order.argsort()]

    attributor.transform_test_rep = transform_in_order
    with patch.object(fisher, "estimate_eigenvector", rows):
        return _dattri_damped(case, settings, attributor)


def _bias_behind_rows(case: Case) -> Tensor:
    """Return where each entry of (weight, bias) rows stands in a gradient of flattened weights and biases."""
    start, order = 0, []
    for layer in case.make().modules():
        if isinstance(layer, nn.Linear):
            weight = torch.arange(layer.weight.numel()).view_as(layer.weight)
            bias = weight.numel() + torch.arange(layer.out_features)
            order.append(start + torch.cat([weight, bias[:, None]], 1).flatten())
            start += weight.numel() + len(bias)
    return torch.cat(order)


def _dattri_damped(case: Case, settings: Settings, attributor: Any) -> Scores:
    """Return the scores of an EK-FAC attributor, its factors made once for all dampings."""
    loader = batches_of(case.data, _BATCH)
    attributor.cache(loader)
    found = {}
    for name, setting in settings.items():
        attributor.damping = setting["damping"]
        found[name] = _attributed(attributor, case)
    return found


def dattri_cg(case: Case, settings: Settings) -> Scores:
    """Influence functions with conjugate gradients on the Hessian of all examples (dattri)."""
    functions = require("dattri.algorithm.influence_function", _EXTRA)
    found = {}
    for name, setting in settings.items():
        attributor = functions.IFAttributorCG(_dattri_task(case), **setting)
        attributor.cache(batches_of(case.data))  # of several batches it would add the inverses
        found[name] = _attributed(attributor, case)
    return found


def _attributed(attributor: Any, case: Case) -> NDArray[Any]:
    """Return the scores; dattri would transform the targets anew for every batch of training examples."""
    transform = attributor.transform_test_rep
    known: list[Any] = []

    def once(**given: Any) -> Any:
        if not known:
            known.append(transform(**given))
        return known[0]

    with torch.no_grad(), patch.object(attributor, "transform_test_rep", once):  # else it keeps the graph of every step
        return as_array(attributor.attribute(batches_of(case.data, _BATCH), batches_of(case.targets))).T


def _dattri_task(case: Case) -> Any:
    """Return the task that dattri asks for: the mean loss, as a function of the parameters."""
    model = case.model()

    def loss(parameters: State, batch: Data) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (batch[0],)), batch[1])

    return require("dattri.task", _EXTRA).AttributionTask(
        loss_func=loss, model=model, checkpoints=dict(case.checkpoints[-1])
    )


def trak_of_one(case: Case, settings: Settings) -> Scores:
    """TRAK over the end of the case's own training (traker)."""
    return trak(replace(case, ends=case.ends[:1]), settings)


def trak(case: Case, settings: Settings) -> Scores:
    """TRAK over the ends of the case's trainings (traker); margins, float32, projections kept between settings."""
    library = require("trak", _EXTRA)
    found: Scores = {}
    with tempfile.TemporaryDirectory() as folder:

        def tracer(setting: Mapping[str, Any]) -> Any:
            return library.TRAKer(
                model=case.make(),
                task="image_classification",
                train_set_size=len(case.data[1]),
                save_dir=Path(folder) / str(setting["dimensions"]),
                device="cpu",
                proj_dim=setting["dimensions"],
                lambda_reg=setting["regularization"],
                use_half_precision=False,
                logging_level=logging.ERROR,
            )

        for setting in {one["dimensions"]: one for one in settings.values()}.values():
            _project(tracer(setting), case)
        for name, setting in settings.items():
            one = tracer(setting)
            for model in one.saver.model_ids.values():
                model["is_finalized"] = 0  # else it keeps the features of another regularisation, without a word
            one.finalize_features()
            found[name] = np.array(one.finalize_scores("targets")).T
    return found


def _project(tracer: Any, case: Case) -> None:
    """Store the projected gradients of the training examples and targets at the end of each training."""
    for place, state in enumerate(case.ends):
        tracer.load_checkpoint(state, model_id=place)
        for batch in batches_of(case.data, 4 * _BATCH):
            tracer.featurize(tuple(batch), num_samples=len(batch[1]))
    tracer.finalize_features()
    for place, state in enumerate(case.ends):
        tracer.start_scoring_checkpoint("targets", state, place, len(case.targets[1]))
        tracer.score(case.targets, num_samples=len(case.targets[1]))


def batches_of(data: Data, size: int | None = None) -> DataLoader[Any]:
    """Return the examples in order, in batches of a size or all at once."""
    return DataLoader(TensorDataset(*data), batch_size=size or len(data[1]), shuffle=False)


def as_array(scores: Tensor) -> NDArray[Any]:
    """Return scores as an array."""
    found: NDArray[Any] = scores.detach().cpu().numpy()
    return found
