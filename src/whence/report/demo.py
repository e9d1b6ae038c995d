"""The demonstration: train a small network with recording, audit its test set, write the page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from whence._errors import ArgumentError
from whence._files import make_folder
from whence._progress import progress
from whence.attribution import Attributor, GradCos, PathSimilarity, Random, audit_scores
from whence.audit import Audit, audit, load_audit
from whence.datasets import Examples, Images, as_examples, load_digits, load_mnist
from whence.evaluation import Table, compare_attributors, load_table
from whence.invariants.priors import PriorSettings, train_prior
from whence.provenance import FolderSettings, train_folder
from whence.report.alike import FEWEST, MapSettings
from whence.report.demo_networks import LeNet5, SmallNet, lenet5, small_network
from whence.report.inverting import InvariantSettings
from whence.report.page import write_report
from whence.report.recognition import Recogniser
from whence.report.training import spaced
from whence.runs import Run, open_run, record

__all__ = ("Demonstration", "LeNet5", "Plan", "SmallNet", "demonstrate", "lenet5", "small_network", "train")

_CHECKPOINTS = 10  # states at which gradients are compared, at most
_EVALUATED = 60  # targets on which methods are compared
_INDISTINCT = 8  # inputs that the network cannot tell from each target
_LEFT_OUT = 0.05  # of the training examples, in each training that compares methods


@final
@dataclass(frozen=True)
class Demonstration:
    """What a demonstration left behind.

    Attributes:
        page: The HTML page.
        run: The recorded run.
        audit_path: The audit on disk.
        audit: The audit, read lazily.
        seconds: How long it all took.
        provenance: The folder of the provenance network, if one was trained.
        recognised: What it recognises, in a sentence.
        prior: The folder of the prior of images, if one was trained.
    """

    page: Path
    run: Path
    audit_path: Path
    audit: Audit
    seconds: float
    provenance: Path | None = None
    recognised: str = ""
    prior: Path | None = None


@final
@dataclass(frozen=True)
class Plan:
    """What is trained, and how.

    Attributes:
        train: The training data.
        targets: Where the targets come from.
        ids: Which of them are audited.
        model: To be trained.
        learning_rate: Of Adam.
        batch_size: Examples a step.
        epochs: Passes over the training data.
        quadrature: Of the audit.
        remove: Examples to propose for removal, for each wrong answer explained.
        retrain: For how many of these to train again without them.
        sets: Trainings without random examples, to measure which method to trust; 0 to leave that out.
        recognise: Whether a provenance network is trained beside it, for as many epochs.
        alike: What the map takes that the page shows; False for none.
        prior: How the prior is trained from which the page has inputs that the network cannot tell from each target;
            None for none.
    """

    train: Examples
    targets: Examples
    ids: Sequence[int]
    model: nn.Module
    learning_rate: float
    batch_size: int
    epochs: int
    quadrature: str
    remove: int
    retrain: int
    sets: int
    recognise: bool = False
    alike: MapSettings | bool = False
    prior: PriorSettings | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * -(-len(self.train) // self.batch_size)


@contextmanager
def _threads(most: int) -> Iterator[None]:
    """Let torch use at most so many threads: networks this small gain nothing from more, and lose on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def demonstrate(
    out: str | Path = "demo",
    *,
    data: str = "digits",
    data_dir: str | Path | None = None,
    epochs: int | None = None,
    batches: int = 40,
    targets: int | None = None,
) -> Demonstration:
    """Train with recording, audit, and write a page; what is there already of an earlier, stopped call is used.

    ``"digits"``: a small convolutional network on scikit-learn's digits, Adam, batch 64.
    ``"mnist"``: LeNet-5 on the first ``batches`` × 256 images of MNIST, Adam.
    Its learning rate is small: steps across fewer kinks of the ReLUs make a more exact audit, and leave wrong answers.

    Args:
        out: Folder for the run, the audit and the page.
        data: ``"digits"`` or ``"mnist"``.
        data_dir: Where MNIST's four files are; see `whence.datasets.load_mnist`.
        epochs: Passes over the training data; 12 for digits and 6 for MNIST when left out.
        batches: For MNIST: how many batches of 256 the training data has.
        targets: How many test images are audited, evenly spaced; all for digits and 256 for MNIST when left out.

    Raises:
        ArgumentError: If the data is unknown, a number is not positive, or ``out`` holds another demonstration.
        DataError: If MNIST's files cannot be read.
        RecordingError: If ``out`` holds another run, or cannot be written.
    """
    started = time.monotonic()
    plan = _plan(data, data_dir, epochs, batches, targets)
    folder = Path(out)
    make_folder(folder)
    _refuse_another(plan, folder)
    with _threads(1 if data == "digits" else torch.get_num_threads()):
        train(plan, folder / "run")
        run = open_run(folder / "run", plan.model, plan.train, loss=functional.cross_entropy)
        found = _audited(run, plan, folder / "audit.zarr")
        place, settings = folder / "provenance", FolderSettings(epochs=plan.epochs)
        traced = train_folder(plan.train, place, settings, source=data) if plan.recognise else None
        invert = None
        if plan.prior is not None:
            prior = train_prior(plan.train, folder / "prior", plan.prior, source=data)
            invert = InvariantSettings(prior, _INDISTINCT)
        page = write_report(
            run,
            found,
            plan.targets,
            folder / "report.html",
            remove=plan.remove,
            retrain=plan.retrain,
            methods=tuple(_methods(plan).values()),
            regions=5,
            evaluation=_evaluated(run, found, plan, folder) if plan.sets else None,
            provenance=None if traced is None else traced.network,
            alike=plan.alike,
            invariants=invert,
        )
        said = "" if traced is None else Recogniser(traced.network, plan.train).verdict(plan.targets, plan.ids)
    run.close()
    kept, seconds = place if traced else None, time.monotonic() - started
    made = None if plan.prior is None else folder / "prior"
    return Demonstration(page, folder / "run", folder / "audit.zarr", found, seconds, kept, said, made)


def train(plan: Plan, path: Path) -> None:
    """Train as planned, with recording; goes on where an earlier recording at ``path`` stopped."""
    optimizer = torch.optim.Adam(plan.model.parameters(), lr=plan.learning_rate)
    with (
        record(path, plan.model, optimizer, plan.train, loss=functional.cross_entropy, resume=True) as recorder,
        progress("training", plan.steps) as advance,
    ):
        advance(recorder.step)
        while recorder.epoch < plan.epochs:
            for inputs, labels in recorder.batches(plan.batch_size):
                optimizer.zero_grad()
                loss = functional.cross_entropy(plan.model(inputs), labels)
                loss.backward()
                optimizer.step()
                advance(1)


def _methods(plan: Plan) -> dict[str, Attributor]:
    """Return the methods shown beside the audit; a short training has fewer states to compare gradients at."""
    return {"grad-cos": GradCos(), "path-similarity": PathSimilarity(min(_CHECKPOINTS, plan.steps))}


def _audited(run: Run, plan: Plan, path: Path) -> Audit:
    """Audit as planned, or return the audit that is at ``path`` already."""
    if path.exists():
        return load_audit(path)
    return audit(run, plan.targets, ids=plan.ids, quadrature=plan.quadrature, path=path)


def _evaluated(run: Run, found: Audit, plan: Plan, folder: Path) -> Table:
    """Measure which method to trust, or return the table that is in the folder already."""
    place = folder / "evaluation.json"
    if place.exists():
        return load_table(place)
    scores = audit_scores(found).isel(target=spaced(len(plan.ids), _EVALUATED))
    methods: dict[str, Attributor | xr.DataArray] = {"audit": scores, **_methods(plan), "random": Random()}
    table = compare_attributors(
        run,
        plan.targets,
        methods,
        ids=scores.coords["target"].values.tolist(),
        share=_LEFT_OUT,
        sets=plan.sets,
        path=folder / "trainings",
    )
    table.save(place)
    return table


def _refuse_another(plan: Plan, folder: Path) -> None:
    """Check that what a folder holds is of this demonstration, before anything in it is touched.

    Raises:
        ArgumentError: If it is not.
    """
    if not (folder / "audit.zarr").exists():
        return
    found = load_audit(folder / "audit.zarr")
    steps, targets = found.data.attrs.get("steps"), found.influence.sizes["target"]
    if (steps, targets) != (plan.steps, len(plan.ids)):
        raise ArgumentError(
            f"{folder} holds another demonstration: an audit of {steps} steps and {targets} targets, not of "
            f"{plan.steps} and {len(plan.ids)}. Choose another folder for this one, or delete that one."
        )


def _plan(data: str, data_dir: str | Path | None, epochs: int | None, batches: int, targets: int | None) -> Plan:
    for name, value in (("epochs", epochs), ("batches", batches), ("targets", targets)):
        if value is not None and value < 1:
            raise ArgumentError(f"`{name}` must be at least 1, got {value}.")
    if data == "digits":
        digits, test = as_examples(load_digits("train")), as_examples(load_digits("test"))
        model, way, ids = small_network(), "simpson", spaced(len(test), len(test) if targets is None else targets)
        passes = epochs or 12
        prior = PriorSettings(width=16, epochs=min(40, max(8, 4 * passes)), flow_steps=max(300, 100 * passes))
        return Plan(digits, test, ids, model, 3e-3, 64, passes, way, 20, 1, 8, True, _mapped(ids), prior)
    if data != "mnist":
        raise ArgumentError(f"The demonstration knows the data 'digits' and 'mnist', not {data!r}.")
    images, test = load_mnist(data_dir, "train"), as_examples(load_mnist(data_dir, "test"))
    first = (images.pixels[: 256 * batches], images.labels[: 256 * batches])
    known = as_examples(Images(*first, divisor=images.divisor, class_names=images.class_names))
    ids = spaced(len(test), 256 if targets is None else targets)
    return Plan(known, test, ids, lenet5(), 7e-5, 256, epochs or 6, "gauss2", 0, 0, 0, True, _mapped(ids))


def _mapped(ids: Sequence[int]) -> MapSettings | bool:
    """Return how targets are mapped; too few are not."""
    return MapSettings(limit=200, times=5) if len(ids) >= FEWEST else False
