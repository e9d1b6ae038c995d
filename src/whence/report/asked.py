"""What the command of invariants names: a network, a unit, a query, a prior, a solver."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from whence._errors import ArgumentError, DataError, LabelError, ShapeError
from whence.attribution import Trained, as_trained
from whence.datasets import Examples
from whence.datasets._pixels import read_pixels
from whence.invariants import (
    FirstOrder,
    Fourier,
    GaussNewton,
    InfiniteOptimization,
    Metropolis,
    Objective,
    Pixels,
    Prior,
    Solver,
    TrainedAutoencoder,
    feature,
    load_diffusion,
    load_prior,
    named_unit,
)
from whence.report.inverting import InvariantSettings
from whence.report.scale import scale_of
from whence.report.sources import named_data, named_loss, named_model
from whence.runs import Run, open_run

SOLVERS: dict[str, Callable[[], Solver]] = {
    "gauss-newton": GaussNewton,
    "metropolis": Metropolis,
    "first-order": FirstOrder,
    "published": InfiniteOptimization,
}
_FEATURE = "feature."
_SAVED = "Give a .safetensors file, or what torch.save wrote of model.state_dict()."
_GREY = ("1", "L", "LA", "La", "I", "F")  # Pillow's modes of one brightness a pixel
_TOLD = 200  # characters of what torch says of tensors that do not fit; it names every one of them


def named_network(
    spec: str, *, model: str | None, data: str | None, loss: str, weights: Path | None
) -> Run | Trained | nn.Module:
    """Return the network that a command line names: of a recorded run, or made by ``package.module:factory``.

    Args:
        spec: The run's folder, or the factory.
        model: With a run, the factory of its model.
        data: The training data; with a factory, if it is to be known.
        loss: Of the training.
        weights: With a factory, a file of the network's weights.

    Raises:
        ArgumentError: If one of these is missing, or does not go with the others.
        DataError: If data or weights cannot be read.
    """
    if Path(spec).is_dir():
        if model is None or data is None:
            raise ArgumentError(f"{spec} is a folder: of a recorded run, give --model and --data as well.")
        if weights is not None:
            raise ArgumentError("A run has its own weights, those at its end. Leave --weights out.")
        return open_run(Path(spec), named_model(model), named_data(data, "train"), loss=named_loss(loss))
    if ":" not in spec:
        raise ArgumentError(
            f"{spec!r} is neither the folder of a recorded run nor package.module:factory, such as train:make_model."
        )
    if model is not None:
        raise ArgumentError(f"{spec} names the model already. Leave --model out, or give the folder of a run.")
    network = named_model(spec)
    if weights is not None:
        load_weights(network, weights)
    network.eval()
    return network if data is None else as_trained(network, named_data(data, "train"), loss=named_loss(loss))


def load_weights(network: nn.Module, path: Path) -> None:
    """Put weights of a file into a network: safetensors, or a state dict of torch, of which nothing is unpickled.

    Raises:
        DataError: If the file holds no weights.
        ArgumentError: If they are of another network.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose own words tell how to run whatever the file holds
        raise DataError(
            f"{path} holds no weights that can be read: it is no file of torch.save, or has more in it than tensors. "
            f"{_SAVED}"
        ) from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"{path} holds no weights that can be read: {_first_words(error)}. {_SAVED}") from error
    weights = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise DataError(f"{path} holds a {type(found).__name__}, not a state dict. {_SAVED}")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ArgumentError(
            f"The weights of {path} are of another network: {' '.join(str(error).split())[:_TOLD]} ... Give those of "
            f"{type(network).__name__}."
        ) from error


def _first_words(error: Exception) -> str:
    """Return what an error says, without the advice that comes after its first sentence."""
    return str(error).split(". ", maxsplit=1)[0].strip().rstrip(".")


def named_objective(
    source: Run | Trained | nn.Module, unit: str, autoencoder: TrainedAutoencoder | None = None, *, pooled: bool = False
) -> Objective:
    """Return the unit that a command line names, see `named_unit`; with an autoencoder also ``feature.17``.

    Raises:
        LabelError: If there is no such unit; the message says which names are near.
        ArgumentError: If a feature is named without an autoencoder.
    """
    model = source if isinstance(source, nn.Module) else as_trained(source).model
    if not unit.startswith(_FEATURE) or unit.split(".", maxsplit=1)[0] in dict(model.named_children()):
        return named_unit(model, unit, pooled=pooled)
    if autoencoder is None:
        raise ArgumentError(f"--unit {unit} is of a sparse autoencoder. Give its file with --autoencoder.")
    index = unit.removeprefix(_FEATURE)
    if not index.isdecimal():
        raise ArgumentError(f"--unit {unit!r} must read feature.NUMBER, such as feature.17.")
    return feature(model, autoencoder, int(index), pooled=pooled)


def named_prior(spec: str, query: Tensor, examples: Examples | None) -> Prior:
    """Return the prior that a command line names: ``fourier``, ``pixels``, or a folder.

    Args:
        spec: The name.
        query: The query, of whose shape the samples are to be.
        examples: Training data: ``pixels`` takes their mean and deviation, ``fourier`` their range.

    Raises:
        ArgumentError: If there is no such prior, or the data that it needs is not given.
        DataError: If a folder holds no prior.
        MissingExtraError: If diffusers is needed and not installed.
        ShapeError: If the query is no image, for ``fourier``.
    """
    if spec == "pixels":
        if examples is None:
            raise ArgumentError(
                "--prior pixels takes each pixel's mean and deviation from the training data. Give --data."
            )
        return Pixels.of(examples)
    if spec == "fourier":
        if query.ndim != 3:
            raise ShapeError(f"--prior fourier makes images; the query has the shape {tuple(query.shape)}.")
        scale = scale_of(examples, query)
        channels, height, width = query.shape
        return Fourier((channels, height, width), (float(scale.low.min()), float(scale.high.max())))
    if not Path(spec).is_dir():
        raise ArgumentError(
            f"No prior {spec!r}: give the folder that whence prior train wrote, a model folder of diffusers, fourier "
            "or pixels."
        )
    if (Path(spec) / "model_index.json").is_file():
        scale = scale_of(examples, query)
        return load_diffusion(spec, bounds=(scale.low.flatten().tolist(), scale.high.flatten().tolist()))
    return load_prior(spec)


def named_settings(spec: str | None, targets: Examples, known: Examples, samples: int) -> InvariantSettings | None:
    """Return how a report looks for invariants; None if no prior is named.

    Args:
        spec: The prior, as `named_prior` takes it.
        targets: The targets, whose first says of what shape samples are.
        known: The training data.
        samples: How many samples for each target.

    Raises:
        ArgumentError: If ``samples`` is not positive, there is no such prior, or inputs are no single tensors.
        DataError: If a folder holds no prior.
    """
    return None if spec is None else InvariantSettings(named_prior(spec, _example(0, targets), known), samples)


def named_query(spec: str, examples: Examples | None) -> Tensor:
    """Return the input that a command line names: an image file, or the id of an example.

    An image's brightness is brought into the range that the data was scaled to, 0 to 1 without data.

    Args:
        spec: The file, or the id.
        examples: Whose ids count, and whose inputs an image must be like.

    Raises:
        LabelError: If there is no example of this id.
        ArgumentError: If an id is given without data, or inputs are no single tensors.
        DataError: If the image cannot be read.
        ShapeError: If it has another size than the data.
    """
    if spec.isdecimal() and not Path(spec).exists():
        return _example(int(spec), examples)
    if not Path(spec).is_file():
        near = difflib.get_close_matches(Path(spec).name, [one.name for one in Path(spec).parent.glob("*")])
        raise DataError(
            f"--query {spec} is neither an image file nor the id of a target (similar: {' or '.join(near) or 'none'})."
        )
    like = None if examples is None else _example(0, examples)
    pixels = read_pixels(Path(spec), mode=_mode(Path(spec), like), size=None, name=spec).float() / 255
    if like is not None and like.ndim != pixels.ndim:
        raise ShapeError(
            f"{spec} is an image, and the inputs of the data have the shape {tuple(like.shape)}. Give the id of an "
            "example."
        )
    if like is not None and pixels.shape != like.shape:
        raise ShapeError(
            f"{spec} is an image of {_size(pixels)}, and the inputs of the data are of {_size(like)} (channels, "
            "height, width). Resize it first."
        )
    return scale_of(examples).read(pixels) if examples is not None else pixels


def named_solver(name: str) -> Solver:
    """Return a solver with its usual settings, by its name on the command line.

    Raises:
        ArgumentError: If there is none of this name.
    """
    if name not in SOLVERS:
        near = " or ".join(difflib.get_close_matches(name, SOLVERS)) or "none is close"
        raise ArgumentError(f"No solver {name!r} (similar: {near}). Choose one of {', '.join(SOLVERS)}.")
    return SOLVERS[name]()


def _example(index: int, examples: Examples | None) -> Tensor:
    """Return the input of an example.

    Raises:
        ArgumentError: If there is no data, or inputs are no single tensors.
        LabelError: If there is no such example.
    """
    if examples is None:
        raise ArgumentError(f"--query {index} is the id of an example: give --targets, or --data, that it is of.")
    if index >= len(examples):
        raise LabelError(f"No target id {index} among {len(examples)}: they go from 0 to {len(examples) - 1}.")
    inputs: Any = examples.batch([index])[0]
    if not isinstance(inputs, Tensor):
        raise ArgumentError(f"A query is one tensor, and the data's inputs are a {type(inputs).__name__}.")
    return inputs[0]


def _mode(path: Path, like: Tensor | None) -> Any:
    """Return whether an image is read in colour: as the data is, or else as the file is."""
    if like is not None:
        return "L" if like.ndim == 3 and like.shape[0] == 1 else "RGB"
    try:
        with Image.open(path) as opened:
            return "L" if opened.mode in _GREY or opened.mode.startswith("I;16") else "RGB"
    except OSError:
        return "RGB"  # reading it says what is wrong


def _size(view: Tensor) -> str:
    return " × ".join(map(str, view.shape))
