"""TRAK: linear regression on projected gradients of margins, by traker."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, GradientError
from whence._extras import require
from whence._numbers import check_seed, even_parts, is_number, is_whole
from whence._progress import Advance, progress
from whence.attribution.baselines import class_numbers
from whence.attribution.scores import label
from whence.attribution.scratch import Scratch
from whence.audit.chunks import outputs_on_one
from whence.datasets import Examples, call_model
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.trained import Trained, on_same_data
from whence.runs import Run, to_device

_EXTRA = "baselines"
_ROWS = 512  # examples that go through the model at once, at most
State = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class TRAK:
    """Influence on the margin in a linear model of projected gradients, mean over several trainings.

    Park et al. (2023), section 3, by the library traker (``pip install "whence[baselines]"``), in float32; for models
    with one logit per class. Positive = helped: the example speaks for the target's own label. Only scores with
    the same settings compare: traker scales them by a factor of its own.

    Args:
        dimensions: Numbers to project each gradient to; without ``regularization`` fewer than training examples.
        others: Runs (or `as_trained` models) on the same training data, with other seeds: the mean over ten or more
            is much better than one.
        regularization: Added to the diagonal of the projected gradients' products, on their own scale.
        layers: Which parameters count: ``"all"``, ``"last"``, or names of layers.
        seed: Of the projection.
    """

    dimensions: int = 512
    others: Sequence[Run | Trained] = ()
    regularization: float = 0.0
    layers: Layers = "all"
    seed: int = 0

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedTRAK:
        """Project the training examples' gradients into a temporary folder; see `Attributor.fit`.

        Raises:
            ArgumentError: If a setting is outside what is listed, a model was trained on other data, or labels are
                not class numbers.
            MissingExtraError: If traker is not installed.
            GradientError: If per-example gradients of the model cannot be formed.
        """
        count = len(trained.examples)
        self._check(count)
        models = on_same_data(trained, self.others)
        names = parameters_of(trained, self.layers)
        fitted = FittedTRAK(self, tuple(models), names, Scratch(), memory_budget)
        fitted.check_labels(trained.examples, range(count), "training")
        tracer = fitted.tracer(trained.examples)
        with progress("gradients of training examples", count * len(models)) as advance:
            for place, one in enumerate(models):
                tracer.load_checkpoint(one.model.state_dict(), model_id=place)
                fitted.each(trained.examples, range(count), tracer.featurize, advance)
        with _silence():
            tracer.finalize_features(del_grads=True)
        return fitted

    def _check(self, count: int) -> None:
        if not is_whole(self.dimensions) or self.dimensions < 1:
            raise ArgumentError(f"`dimensions` is a whole number, at least 1; got {self.dimensions!r}.")
        if not is_number(self.regularization) or self.regularization < 0:
            raise ArgumentError(f"`regularization` is a number, at least 0; got {self.regularization!r}.")
        check_seed(self.seed)
        if self.regularization == 0 and self.dimensions >= count:
            raise ArgumentError(
                f"{self.dimensions} dimensions for {count} training examples: the regression has no one solution. "
                "Give fewer `dimensions` than examples, or a `regularization`."
            )


@final
@dataclass(frozen=True)
class FittedTRAK:
    """Projected gradients in a folder, for any targets.

    Attributes:
        settings: Of the attributor.
        models: Those that the mean is over.
        names: The parameters that count.
        folder: Where the projected gradients are.
        memory_budget: Bytes to hold.
    """

    settings: TRAK
    models: tuple[Trained, ...]
    names: tuple[str, ...]
    folder: Scratch
    memory_budget: int

    def scores(self, targets: Examples, ids: Sequence[int]) -> xr.DataArray:
        """Score every training example for some targets; see `Fitted.scores`.

        Raises:
            ArgumentError: If the targets' labels are no classes of the model.
        """
        self.check_labels(targets, ids, "target")
        tracer, name = self.tracer(targets), uuid.uuid4().hex
        with progress("scoring", len(ids) * len(self.models)) as advance:
            for place, one in enumerate(self.models):
                tracer.start_scoring_checkpoint(name, one.model.state_dict(), place, len(ids))
                self.each(targets, ids, tracer.score, advance)
        with _silence():
            values = np.array(tracer.finalize_scores(name)).T
        for path in self.folder.path.rglob(f"*{name}*"):
            path.unlink()
        count = len(self.models)
        title = "TRAK" if count == 1 else f"TRAK, mean of {count}"
        unit = "units of target margin, times a constant"
        extra = {"quantity": "margin", "dimensions": self.settings.dimensions}
        train = range(len(self.models[0].examples))
        return label(values, list(ids), train, attributor=title, unit=unit, helps=1, extra=extra)

    def tracer(self, examples: Examples) -> Any:
        """Return traker's own object, on what is in the folder: a new one each time, as it forgets its projection."""
        library = require("trak", _EXTRA)
        first = self.models[0]
        with _silence():
            return library.TRAKer(
                model=copy.deepcopy(first.model),
                task=_margin(examples),
                train_set_size=len(first.examples),
                save_dir=self.folder.path,
                device=str(first.device),
                proj_dim=self.settings.dimensions,
                projector_seed=self.settings.seed,
                lambda_reg=self.settings.regularization,
                grad_wrt=self.names,
                use_half_precision=False,
                logging_level=logging.CRITICAL,
            )

    def each(self, examples: Examples, ids: Sequence[int], take: Callable[..., object], advance: Advance) -> None:
        """Give traker the tensors that examples are made of, the label's last, in blocks that fit the budget.

        Raises:
            GradientError: If it cannot take their gradients.
        """
        width = sum(one.numel() for one in self.models[0].model.parameters())
        for part in even_parts(range(len(ids)), max(1, min(_ROWS, self.memory_budget // (12 * width)))):
            batch = to_device(examples.batch(ids[part.start : part.stop]), self.models[0].device)
            try:
                take(pytree.tree_leaves(batch), num_samples=len(part))
            except RuntimeError as error:
                raise GradientError(
                    f"traker cannot take the gradients of {type(self.models[0].model).__name__}: {error}. Take GradDot "
                    "with a `projection`, or Influence of a few layers."
                ) from error
            advance(len(part))

    def check_labels(self, examples: Examples, ids: Sequence[int], which: str) -> None:
        """Refuse labels that are no class of the model.

        Raises:
            ArgumentError: If there is one, or the model's outputs are not one logit per class.
        """
        labels = class_numbers(examples, which)[torch.tensor(ids)]
        outputs = outputs_on_one(self.models[0].model, examples, torch.tensor(ids))
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ArgumentError(
                f"TRAK is of margins: it needs outputs of shape (examples, classes), two classes or more; this model "
                f"gives {given}. Take GradDot or Influence."
            )
        outside = labels[(labels < 0) | (labels >= logits.shape[1])]
        if len(outside):
            raise ArgumentError(
                f"The {which} label {int(outside[0])} is none of the model's {logits.shape[1]} classes "
                f"(0..{logits.shape[1] - 1}), so it has no margin. Leave such examples out."
            )


def _margin(examples: Examples) -> Any:
    """Return what traker asks for: the margin of one example, and one minus the probability of each label."""
    _, form = pytree.tree_flatten(examples.batch([0]))

    def logits_of(model: nn.Module, state: tuple[State, State], leaves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        inputs, labels = pytree.tree_unflatten(list(leaves), form)

        def called(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, state, args, kwargs)  # type: ignore[arg-type]

        outputs = call_model(called, inputs)
        return getattr(outputs, "logits", outputs), labels

    class Margin(require("trak.modelout_functions", _EXTRA).AbstractModelOutput):  # type: ignore[misc]
        def __init__(self) -> None:
            """Hold nothing."""

        def get_output(self, model: nn.Module, weights: State, buffers: State, *leaves: Tensor) -> Tensor:
            logits, labels = logits_of(model, (weights, buffers), [one[None] for one in leaves])
            own = torch.arange(logits.shape[1], device=logits.device) == labels.reshape(-1, 1)
            rest = torch.logsumexp(logits.masked_fill(own, -torch.inf), 1)
            return (torch.where(own, logits, 0.0).sum(1) - rest).sum()

        def get_out_to_loss_grad(
            self, model: nn.Module, weights: State, buffers: State, leaves: Sequence[Tensor]
        ) -> Tensor:
            with torch.no_grad():
                logits, labels = logits_of(model, (weights, buffers), leaves)
            return 1 - torch.softmax(logits, 1).gather(1, labels.reshape(-1, 1))

    return Margin()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep traker's bars from the terminal, and its handler from the root logger."""
    before = list(logging.root.handlers)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for handler in set(logging.root.handlers) - set(before):
            logging.root.removeHandler(handler)
