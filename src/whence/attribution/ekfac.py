"""Influence functions with an EK-FAC inverse, by kronfluence."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, GradientError
from whence._extras import require
from whence._numbers import check_seed, is_number
from whence._progress import Advance, progress
from whence.attribution.drawn import FISHERS, can_be_drawn, drawn_labels
from whence.attribution.scores import label
from whence.attribution.scratch import Scratch
from whence.audit.chunks import ROOT, outputs_on_one
from whence.audit.quantities import Numbers, Quantity, as_quantity, evaluate
from whence.datasets import Examples, call_model
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.trained import Trained
from whence.runs import cast_floating, kept_randomness, to_device

_EXTRA = "baselines"
_SUPPORTED = (nn.Linear, nn.Conv2d)  # of kronfluence; not what inherits from them
_ROWS = 256  # examples that go through the model at once, at most
_COPIES = 4  # of an example's gradient: as it is, in the eigenbasis, divided, a spare
_INNER = "model"
Question = tuple[Examples, Quantity]
"""Targets, and what of them."""


@final
@dataclass(frozen=True)
class EKFAC:
    """Influence functions ⟨h_n, (G + λ I)⁻¹ g_m⟩, G an eigenvalue-corrected Kronecker-factored Fisher matrix.

    Grosse et al. (2023), section 3, by the library kronfluence (``pip install "whence[baselines]"``, then ``pip install
    --no-deps kronfluence``), in float32. As `Influence`, for networks whose Hessian is too large to form: M times the
    rise of the target's quantity for the worse when the example is taken out of M. Positive = helped, whatever the
    quantity. Linear and convolution layers count; parameters of others do not, and
    ``attrs["left_out"]`` names them.

    Args:
        damping: λ; None takes a tenth of each layer's mean eigenvalue.
        quantity: Of the target: ``"loss"``, ``"logit"``, ``"margin"``, ``"probability"`` or a callable.
        layers: Which parameters count: ``"all"``, ``"last"``, or names of layers.
        fisher: ``"true"`` takes gradients at labels that the model draws, for cross-entropy over classes and for
            squared error; ``"empirical"`` those at the training labels, for any loss.
        seed: Of the draws.
    """

    damping: float | None = None
    quantity: str | Numbers = "loss"
    layers: Layers = "all"
    fisher: str = "true"
    seed: int = 0

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedEKFAC:
        """Fit the factors, which stay in a temporary folder; see `Attributor.fit`.

        Raises:
            ArgumentError: If a setting is outside what is listed, or no layer that counts is supported.
            MissingExtraError: If kronfluence is not installed.
            GradientError: If kronfluence cannot work with the model.
        """
        if self.damping is not None and (not is_number(self.damping) or self.damping < 0):
            raise ArgumentError(f"`damping` is at least 0, or None for kronfluence's heuristic; got {self.damping!r}.")
        check_seed(self.seed)
        if self.fisher not in FISHERS:
            raise ArgumentError(f"`fisher` is {' or '.join(map(repr, FISHERS))}; got {self.fisher!r}.")
        modules, left_out = _split(trained, self.layers)
        if self.fisher == "true":
            outputs = outputs_on_one(trained.model, trained.examples, torch.tensor([0]))
            can_be_drawn(trained.loss, outputs, trained.examples.batch([0])[1])
        arguments = require("kronfluence.arguments", _EXTRA)
        fitted = FittedEKFAC(self, trained, modules, left_out, Scratch(), memory_budget)
        count, rows = len(trained.examples), {"per_device_batch_size": fitted.rows}
        chosen = arguments.FactorArguments(use_empirical_fisher=self.fisher == "empirical")
        with progress("EK-FAC factors", 2 * count) as advance, fitted.analyzer(None, advance) as analyzer:
            analyzer.fit_all_factors("factors", _Numbers(range(count)), factor_args=chosen, **rows)
        return fitted


@final
@dataclass(frozen=True)
class FittedEKFAC:
    """Factors in a folder, for any targets.

    Attributes:
        settings: Of the attributor.
        trained: The model.
        modules: Names of the layers that count.
        left_out: Names of layers that were meant, but are not supported.
        folder: Where the factors are.
        memory_budget: Bytes to hold.
    """

    settings: EKFAC
    trained: Trained
    modules: tuple[str, ...]
    left_out: tuple[str, ...]
    folder: Scratch
    memory_budget: int

    def scores(self, targets: Examples, ids: Sequence[int]) -> xr.DataArray:
        """Score every training example for some targets; see `Fitted.scores`.

        Raises:
            ArgumentError: If the quantity does not fit the model's outputs.
        """
        outputs = outputs_on_one(self.trained.model, targets, torch.tensor(ids))
        quantity = as_quantity(self.settings.quantity, self.trained.loss, None, outputs)
        train = range(len(self.trained.examples))
        chunks = -(-len(ids) // self.rows)
        work = len(ids) + chunks * len(train)
        with progress("scoring", work) as advance, self.analyzer((targets, quantity), advance) as analyzer:
            analyzer.compute_pairwise_scores(
                scores_name="pairs",
                factors_name="factors",
                query_dataset=_Numbers(ids),
                train_dataset=_Numbers(train),
                per_device_query_batch_size=self.rows,
                per_device_train_batch_size=self.rows,
                score_args=self._score_arguments(),
                overwrite_output_dir=True,
            )
            found: Tensor = analyzer.load_pairwise_scores("pairs")["all_modules"]
        unit = f"{quantity.unit} if removed and trained to the optimum, times the number of training examples"
        extra = {"quantity": quantity.name, "fisher": self.settings.fisher}
        if self.left_out:
            extra["left_out"] = ", ".join(self.left_out)
        values = -found if quantity.helps > 0 else found
        return label(values, list(ids), train, attributor="EK-FAC", unit=unit, helps=1, extra=extra)

    def self_scores(self) -> Float[Tensor, " train"]:
        """Return each training example's score on its own loss."""
        count = len(self.trained.examples)
        with progress("scoring", count) as advance, self.analyzer(None, advance) as analyzer:
            analyzer.compute_self_scores(
                scores_name="self",
                factors_name="factors",
                train_dataset=_Numbers(range(count)),
                per_device_train_batch_size=self.rows,
                score_args=self._score_arguments(),
                overwrite_output_dir=True,
            )
            found: Tensor = analyzer.load_self_scores("self")["all_modules"]
        return found

    @property
    def rows(self) -> int:
        """Examples whose gradients are held at once."""
        one = sum(parameter.numel() for name in self.modules for parameter in self._module(name).parameters())
        return max(1, min(_ROWS, self.memory_budget // (2 * _COPIES * 4 * one)))

    def _module(self, name: str) -> nn.Module:
        return self.trained.model.get_submodule(name)

    def _score_arguments(self) -> Any:
        return require("kronfluence.arguments", _EXTRA).ScoreArguments(damping_factor=self.settings.damping)

    @contextmanager
    def analyzer(self, question: Question | None, advance: Advance) -> Iterator[Any]:
        """Enter around what kronfluence does; explains its errors.

        Yields:
            Its analyzer, on a copy of the model.

        Raises:
            GradientError: If it cannot work with the model.
        """
        library = require("kronfluence.analyzer", _EXTRA)
        task = _task(self, question, advance)
        # A model that is one layer has no name for it, so all are put into another.
        model = nn.ModuleDict({_INNER: copy.deepcopy(self.trained.model).float()})
        try:
            with kept_randomness(self.trained.device), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of what kronfluence calls of torch
                yield library.Analyzer(
                    "whence",
                    library.prepare_model(model, task),
                    task,
                    cpu=self.trained.device.type == "cpu",
                    log_level=logging.CRITICAL,
                    disable_tqdm=True,
                    output_dir=str(self.folder.path),
                )
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise GradientError(
                f"kronfluence cannot work with {type(self.trained.model).__name__} at the layers "
                f"{', '.join(one or ROOT for one in self.modules)}: {error}. Name fewer `layers` (such as 'last'), or "
                "take GradDot, or Influence of a few layers."
            ) from error


def _split(trained: Trained, layers: Layers) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the layers that kronfluence supports, and of those that it does not.

    Raises:
        ArgumentError: If it supports none.
    """
    owners = tuple(dict.fromkeys(name.rpartition(".")[0] for name in parameters_of(trained, layers)))
    known = tuple(one for one in owners if type(trained.model.get_submodule(one)) in _SUPPORTED)
    left = tuple(one or ROOT for one in owners if one not in known)
    if not known:
        raise ArgumentError(
            f"EK-FAC knows linear and 2-d convolution layers (nn.Linear, nn.Conv2d) only; of the layers that count, "
            f"{', '.join(left)}, none is one. Take GradDot, or Influence of a few layers."
        )
    return known, left


@final
class _Numbers(torch.utils.data.Dataset[int]):
    """Ids in place of examples: the task looks them up."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> int:
        return self._ids[index]


def _task(fitted: FittedEKFAC, question: Question | None, advance: Advance) -> Any:
    """Return what kronfluence asks for: the summed loss and the summed quantity of a batch."""
    trained, seed = fitted.trained, fitted.settings.seed

    def called(model: nn.Module, examples: Examples, ids: Tensor) -> tuple[Any, Any]:
        inputs, labels = cast_floating(to_device(examples.batch(ids), trained.device), torch.float32)
        advance(len(ids))
        return call_model(model[_INNER], inputs), labels  # type: ignore[index]

    class Summed(require("kronfluence.task", _EXTRA).Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Tensor:
            outputs, labels = called(model, trained.examples, batch)
            if sample:
                labels = drawn_labels(trained.loss, outputs, batch.tolist(), seed)
            return trained.loss.per_example(outputs, labels).sum()

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
            assert question is not None  # targets are asked about when scores are
            targets, quantity = question
            outputs, labels = called(model, targets, batch)
            return evaluate(quantity.numbers[0], outputs, labels, len(batch)).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return [f"{_INNER}.{one}" if one else _INNER for one in fitted.modules]

    return Summed()
