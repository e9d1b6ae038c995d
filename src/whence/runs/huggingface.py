"""Record a training by the Trainer of Hugging Face's transformers, in one line."""

from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from whence._errors import RecordingError, UnsupportedLossError
from whence._extras import require
from whence.datasets import Examples, as_examples
from whence.runs.foreign import ForeignLoop
from whence.runs.randomness import kept_randomness
from whence.runs.record import start_recording
from whence.runs.tapped import check_collation, check_loader

if TYPE_CHECKING:
    import transformers

_COMPARED = 4  # examples on which two ways of making a batch are compared


def cross_entropy_of_logits(outputs: Any, labels: Tensor) -> Tensor:
    """Return the cross entropy of ``outputs.logits`` (examples, classes), one value an example: (examples,).

    Its mean is what models for classification by transformers compute inside ``forward`` when they are given labels.
    """
    return F.cross_entropy(outputs.logits, labels, reduction="none")


def huggingface_recorder(
    path: str | PathLike[str],
    train_data: Any,
    *,
    loss: Any = cross_entropy_of_logits,
    snapshot_every: int | Literal["auto"] = "auto",
    disk_budget: int = 2**30,
    resume: bool = False,
) -> "transformers.TrainerCallback":
    """Return a callback that records ``trainer.train()``, for ``Trainer(callbacks=[huggingface_recorder(...)])``.

    The items of ``train_data`` are dicts with ``labels`` (or ``label``). The Trainer calls the model with the labels
    among its inputs, and the model computes the loss; to make a step again, the model is called without them, and
    ``loss`` is applied to its outputs. Both must be the same up to a factor. Accumulated batches, clipping
    (``max_grad_norm``), warm-up and evaluation may be as they like. The training is the same with and without the
    callback. Open the run with the same loss: ``open_run(path, model, data, loss=cross_entropy_of_logits)``.

    An error ends ``trainer.train()`` without a word to callbacks: the hooks on the model then stay until the Trainer
    trains again. The run is whole up to its last step in any case.

    Args:
        path: A folder to be made.
        train_data: The very dataset given to the Trainer; with a data collator that pads or does more than to stack,
            ``whence.as_examples(dataset, collate_fn=that_collator)``.
        loss: A callable ``(outputs, labels)``, as for `record`; outputs are what the model returns, such as a
            ``SequenceClassifierOutput``.
        snapshot_every, disk_budget: As for `record`.
        resume: Go on with the run at ``path``, if there is one: parameters and optimizer state are set to its last
            step. With ``trainer.train(resume_from_checkpoint=...)`` the checkpoint must be of that step, and the data
            goes on where it stopped; without one, the Trainer counts epochs and schedules from 0.

    Raises:
        MissingExtraError: If transformers is not installed.
        DataError: If the data cannot be read.

    While it trains, the errors of `record` are raised from ``trainer.train()``, and ``RecordingError`` for
    several devices, mixed precision and compiled models.
    """
    require("transformers", "huggingface")
    from transformers import TrainerCallback

    start = partial(start_recording, path, snapshot_every=snapshot_every, disk_budget=disk_budget, resume=resume)
    loop = ForeignLoop(start, as_examples(train_data))

    class HuggingFaceRecorder(TrainerCallback):  # type: ignore[misc]  # transformers is not followed: its types are Any
        """Record ``trainer.train()``."""

        def on_train_begin(self, args: Any, state: Any, _control: Any, **given: Any) -> None:
            _begin(loop, loss, args, state, given)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            loop.offer()  # the first batch of a step ...

        def on_substep_end(self, *_: Any, **__: Any) -> None:
            loop.offer()  # ... and those accumulated after it

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            loop.end_epoch()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            loop.close()

    return HuggingFaceRecorder()


def _begin(loop: ForeignLoop, loss: Any, args: Any, state: Any, given: Mapping[str, Any]) -> None:
    """Begin to record at ``on_train_begin``, when a checkpoint has been restored and no data was read."""
    loop.abandon()
    model, shard = given["model"], given["train_dataloader"]
    _check_arguments(args)
    if loss is cross_entropy_of_logits:
        _check_default_loss(args, model)
    loader = getattr(shard, "base_dataloader", shard)  # accelerate wraps the DataLoader
    check_loader(loader, loop.examples)
    _check_collation(loader, loop.examples)
    optimizer = getattr(given["optimizer"], "optimizer", given["optimizer"])  # and the optimizer
    loop.begin(model, optimizer, loss=loss, restored=state.global_step > 0)
    loop.follow(loader, skip=_skipped(args, state, len(shard)))


def _skipped(args: Any, state: Any, batches: int) -> int:
    """Return how many of an epoch's batches the Trainer leaves out when it goes on from a checkpoint."""
    if args.ignore_data_skip or not state.global_step:
        return 0
    accumulated = int(args.gradient_accumulation_steps)
    steps = max(-(-batches // accumulated), 1)  # steps an epoch: the last may accumulate less
    return int(state.global_step) % steps * accumulated


def _check_arguments(args: Any) -> None:
    """Check that the Trainer makes steps in the way that is recorded.

    Raises:
        RecordingError: If not; the message names what is in the way.
    """
    precise = args.bf16 or args.fp16
    obstacles = (
        (args.world_size > 1 or args.n_gpu > 1, "trains on several devices. Train on one (CUDA_VISIBLE_DEVICES=0)"),
        (args.deepspeed or args.fsdp, "shards the model (deepspeed or fsdp). Train without them"),
        (precise, "has bf16=True or fp16=True, which changes the model's forward method. Train in full precision"),
        (args.torch_compile, "has torch_compile=True. Train without it"),
        (args.neftune_noise_alpha, "has neftune_noise_alpha, which changes the embeddings. Train without it"),
    )
    for stands, reason in obstacles:
        if stands:
            raise RecordingError(f"This training cannot be recorded: the Trainer {reason}.")


def _check_default_loss(args: Any, model: Any) -> None:
    """Check that a Trainer minimises the cross entropy of the logits.

    Raises:
        UnsupportedLossError: If it minimises something else.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "problem_type", None) or ("regression" if getattr(config, "num_labels", 2) == 1 else None)
    found = None
    if kind not in {None, "single_label_classification"}:
        found = f"a model for {kind}"
    elif args.label_smoothing_factor:
        found = f"label_smoothing_factor={args.label_smoothing_factor}"
    if found is not None:
        raise UnsupportedLossError(
            f"The Trainer has {found}, so it does not minimise the mean cross entropy of the logits. Give loss= a "
            "callable (outputs, labels) that returns what it minimises, one value per example."
        )


def _check_collation(loader: DataLoader[Any], examples: Examples) -> None:
    """Check that a Trainer makes its batches as ``examples`` do, also where both have their own default.

    Raises:
        UnsupportedLoaderError: If not.
    """
    from transformers import DefaultDataCollator, default_data_collator

    collate = getattr(loader.collate_fn, "data_collator", loader.collate_fn)  # the Trainer wraps it to drop columns
    plain = collate is default_data_collator or isinstance(collate, DefaultDataCollator)
    if plain and examples.collate_fn is default_collate and _same_batch(loader, examples):
        return
    check_collation(collate, examples)


def _same_batch(loader: DataLoader[Any], examples: Examples) -> bool:
    """Return whether the first examples give the same batch both ways."""
    ids = range(min(_COMPARED, len(examples)))
    with kept_randomness(torch.device("cpu")):
        inputs, labels = examples.batch(ids)
        theirs = loader.collate_fn([loader.dataset[index] for index in ids])
    mine = {**inputs, "labels": labels} if isinstance(inputs, Mapping) else {}
    return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)


def _same(first: Any, second: Any) -> bool:
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return False
    return first.dtype == second.dtype and torch.equal(first, second)
