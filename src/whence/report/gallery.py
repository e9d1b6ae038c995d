"""One self-contained HTML page about one invariant set: the samples, what proves them, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._files import file_place, write_atomically
from whence.attribution import Attributor, Fitted, RepresentationCos, Trained, as_trained, helpful
from whence.audit.chunks import labels_of
from whence.datasets import Examples, as_examples
from whence.invariants import InvariantSet, Objective, TrainedAutoencoder
from whence.invariants.dictionary import shared_features
from whence.invariants.ranking import Features
from whence.invariants.units import frozen
from whence.report.figures import Figure, Rows
from whence.report.gallery_plots import gallery_figures
from whence.report.indistinct import TELLING, Indistinct, answers_of, indistinct
from whence.report.pictures import Look, look
from whence.report.scale import Scale, scale_of
from whence.report.traced import Exemplar
from whence.report.words import count, duration, label_name, number, percent
from whence.runs import Run

EXAMPLE = "invariants.html"
_REAL = 512  # real inputs at most: that realism is judged by, and that features are counted on
_FEATURES = 12  # shared features listed
_NEAREST = 5


@final
@dataclass(frozen=True)
class Near:
    """The training examples nearest to one input.

    Attributes:
        key: Of the input's picture.
        name: What the input is called.
        listed: The examples, nearest first.
    """

    key: str
    name: str
    listed: tuple[Exemplar, ...]


@final
@dataclass(frozen=True)
class Gallery:
    """Everything on the page, ready to be put into HTML.

    Attributes:
        title: Its heading.
        lead: What was kept, in a sentence.
        facts: Pairs of name and value about the search.
        panel: The samples.
        columns: Head of the table of certificates.
        figures: Plots.
        nearest: Training examples nearest to the query and to the most telling samples; empty without training data.
        measure: What they are nearest in.
        train_looks: How these look, by id.
        shared_columns: Head of the table of shared features.
        shared: The features that the query and most samples share; empty without an autoencoder.
        shared_said: The same in a sentence.
    """

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    panel: Indistinct
    columns: tuple[str, ...]
    figures: tuple[Figure, ...]
    nearest: tuple[Near, ...] = ()
    measure: str = ""
    train_looks: dict[int, Look] | None = None
    shared_columns: tuple[str, ...] = ()
    shared: Rows = ()
    shared_said: str = ""


def gallery(  # noqa: PLR0913 - the page's parts, all but three by keyword
    found: InvariantSet,
    objective: Objective,
    source: Run | Trained | nn.Module,
    *,
    attributor: Attributor | Fitted | None = None,
    autoencoder: TrainedAutoencoder | None = None,
    draws: Tensor | None = None,
    telling: int = TELLING,
    features: Features | None = None,
    scale: Scale | None = None,
) -> Gallery:
    """Collect everything that the page shows.

    Args:
        found: Samples of `whence.invariants.invariants`, solved or not.
        objective: What was kept.
        source: The network: a recorded run or a trained model with its data, for the nearest training examples and
            the names of classes; or the network alone.
        attributor: What says which training examples are near a sample, fitted or not; the cosine of the last layer's
            inputs if left out.
        autoencoder: Of one of the network's layers: the features that the query and the samples share are listed.
        draws: Of the prior: their spectrum stands beside the samples'.
        telling: How many samples to single out as most telling.
        features: The space in which these are far from the query and each other; the inputs themselves if left out.
        scale: Which numbers are black and white.

    Raises:
        ArgumentError: If ``telling`` is not positive.
    """
    trained = None if isinstance(source, nn.Module) else as_trained(source)
    model = frozen(source) if isinstance(source, nn.Module) else as_trained(source).model
    examples = None if trained is None else trained.examples
    real = real_inputs(examples, found)
    names = None if examples is None else examples.class_names
    known = scale or scale_of(examples, torch.cat([found.query[None], found.inputs]))
    panel = indistinct(found, model, names=names, scale=known, telling=telling, features=features, real=real)
    nearest, measure = _nearest(found, panel, trained, attributor or RepresentationCos(), names)
    shared = _shared(model, autoencoder, found, real)
    listed = sorted({one.index for each in nearest for one in each.listed})
    return Gallery(
        f"What {type(model).__name__} cannot tell apart",
        f"{count(len(found), 'other input')} on which {objective.name} is to take the value that it takes on the "
        "query. What differs between them and the query, this part of the network does not see.",
        _facts(found),
        panel,
        panel.columns,
        gallery_figures(objective, found, draws),
        nearest,
        measure,
        {} if examples is None else {one: look(examples, one) for one in listed},
        *shared,
    )


def write_gallery(
    found: InvariantSet, objective: Objective, source: Run | Trained | nn.Module, path: str | Path, **parts: Any
) -> Path:
    """Write one HTML page about an invariant set: self-contained, readable offline.

    It shows the query and the samples with their values and certificates, the most telling first and the failures
    last; at which frequencies the value hangs (EquiDiff, figure 4.5); spectra; the training examples nearest to the
    query and to the most telling samples; and the features that all of them share. A page that stands at ``path``
    already is replaced, whole or not at all.

    Args:
        found, objective, source: As `gallery` takes them.
        path: Where to write the page; missing folders are made.
        parts: The others that `gallery` takes, by name.

    Returns:
        ``path``.

    Raises:
        ArgumentError: If ``path`` is a folder, or `gallery` refuses an argument.
        DiskError: If the disk is full or refuses to write.
    """
    from whence.report.html import render_gallery

    place = file_place(path, EXAMPLE)
    write_atomically(place, render_gallery(gallery(found, objective, source, **parts)).encode("utf-8"))
    return place


def _facts(found: InvariantSet) -> tuple[tuple[str, str], ...]:
    attrs, told = found.certificate.attrs, found.summary()
    goal, cost, spread = attrs["goal"], told["evaluations_per_solved"], float(attrs["spread"])
    facts = (
        ("kept", found.objective),
        ("value on the query", number(goal[0], 4) if len(goal) == 1 else f"{len(goal)} values"),
        ("tolerance", number(attrs["tolerance"])),
        ("its spread over data", number(spread) if spread > 0 else ""),
        ("solved", f"{told['solved']:,} of {len(found):,}"),
        ("filter", "" if attrs["cutoff"] == "none" else f"also at cut-off {number(float(attrs['cutoff']), 2)}"),
        ("network evaluations for each", "" if cost is None else f"{cost:,.0f}"),
        ("search took", duration(float(attrs["seconds"]))),
    )
    return tuple((name, value) for name, value in facts if value)


def real_inputs(examples: Examples | None, found: InvariantSet) -> Tensor | None:
    """Return some real inputs, evenly spaced; None without data, or if they are few or not of the query's shape."""
    if examples is None:
        return None
    many = min(_REAL, len(examples))
    rows = [place * len(examples) // many for place in range(many)]
    inputs = examples.batch(rows)[0]
    fits = isinstance(inputs, Tensor) and inputs.shape[1:] == found.query.shape and many > 3
    return inputs.to(found.query) if fits else None


def _nearest(
    found: InvariantSet,
    panel: Indistinct,
    trained: Trained | None,
    attributor: Attributor | Fitted,
    names: Sequence[str] | None,
) -> tuple[tuple[Near, ...], str]:
    """Return the training examples nearest to the query and to the most telling samples, and by what measure."""
    if trained is None:
        return (), ""
    rows = list(panel.places[: panel.telling])
    inputs = torch.cat([found.query[None], found.inputs[rows]])
    answers = answers_of(trained.model, inputs)
    labels = torch.zeros(len(inputs), dtype=torch.int64) if answers is None else torch.tensor(answers)
    fitted = attributor.fit(trained) if isinstance(attributor, Attributor) else attributor
    scores = fitted.scores(as_examples((inputs.cpu(), labels)), list(range(len(inputs))))
    known = labels_of(trained.examples)

    def listed(place: int) -> tuple[Exemplar, ...]:
        row = helpful(scores, place, min(_NEAREST, scores.sizes["train"]))
        pairs = zip(row.coords["train"].values.tolist(), row.values.tolist(), strict=True)
        return tuple(
            Exemplar(one, "" if known is None else label_name(known[one], names), number(value, 3))
            for one, value in pairs
        )

    shown = (panel.query, *panel.samples[: panel.telling])
    nearest = tuple(Near(one.key, one.name, listed(place)) for place, one in enumerate(shown))
    return nearest, f"{scores.attrs['attributor']} ({scores.attrs['unit']})"


def _shared(
    model: nn.Module, autoencoder: TrainedAutoencoder | None, found: InvariantSet, real: Tensor | None
) -> tuple[tuple[str, ...], Rows, str]:
    """Return head and rows of the table of shared features, and a sentence about it."""
    if autoencoder is None or not found.solved.any():
        return (), (), ""
    shared = shared_features(model, autoencoder, found, data=real)
    known = "usual" in shared
    few = shared.isel(feature=slice(0, _FEATURES))
    rows = tuple(
        (
            f"feature {int(one.feature)}",
            number(float(one["query"])),
            percent(float(one["share"])),
            number(float(one["median"])),
            *((percent(float(one["usual"])),) if known else ()),
        )
        for one in (few.isel(feature=place) for place in range(few.sizes["feature"]))
    )
    columns = ("feature", "on the query", "share of samples", "median on samples")
    many = count(shared.sizes["feature"], "feature")
    said = f"Active on the query and on most samples: {many} of {autoencoder.layer}."
    if known:
        said += " Those that are least usual on real inputs, against their share of the samples, come first."
    return (*columns, "share of real inputs") if known else columns, rows, said
