"""Record a training by Lightning, in one line."""

from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, final

from whence._errors import RecordingError
from whence._extras import require
from whence.datasets import as_examples
from whence.runs.foreign import ForeignLoop
from whence.runs.record import start_recording
from whence.runs.tapped import check_collation, check_loader

if TYPE_CHECKING:
    import lightning.pytorch


def lightning_recorder(
    path: str | PathLike[str],
    train_data: Any,
    *,
    loss: Any,
    snapshot_every: int | Literal["auto"] = "auto",
    disk_budget: int = 2**30,
    resume: bool = False,
) -> "lightning.pytorch.Callback":
    """Return a callback that records ``trainer.fit``, for ``Trainer(callbacks=[lightning_recorder(...)])``.

    What is recorded is automatic optimization with one optimizer on one device. ``training_step`` must call the
    ``LightningModule`` itself, ``self(inputs)``, with the inputs as the dataset gives them (not a part of it, such as
    ``self.net(inputs)``), and return ``loss(self(inputs), labels)``: that is how steps are made again. Accumulated
    batches, gradient clipping, learning rate schedules, autocast and validation loops may be as they like. The
    training is the same with and without the callback. Open the run with the ``LightningModule``:
    ``open_run(path, module, data, loss=loss)``.

    Args:
        path: A folder to be made.
        train_data: The very dataset that the training ``DataLoader`` reads, or `whence.as_examples` of it where
            the loader has a ``collate_fn``.
        loss: What ``training_step`` returns, as for `record`.
        snapshot_every, disk_budget: As for `record`.
        resume: Go on with the run at ``path``, if there is one: parameters and optimizer state are set to its last
            step. With ``trainer.fit(..., ckpt_path=...)`` the checkpoint must be of that step; without one, Lightning
            counts epochs and schedules from 0. Every ``fit`` reads its data from the start: it begins a new epoch.

    Raises:
        MissingExtraError: If Lightning is not installed.
        DataError: If the data cannot be read.

    While it trains, the errors of `record` are raised from ``trainer.fit``, and ``RecordingError`` for several
    optimizers, manual optimization or several devices.
    """
    require("lightning.pytorch", "lightning")
    from lightning.pytorch import Callback, LightningModule, Trainer

    start = partial(start_recording, path, snapshot_every=snapshot_every, disk_budget=disk_budget, resume=resume)
    hooks = _Hooks(ForeignLoop(start, as_examples(train_data)), loss)

    class LightningRecorder(Callback):
        """Record ``trainer.fit``."""

        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            if stage == "fit":
                hooks.enter(trainer, pl_module)

        def on_train_batch_start(self, *_: Any, **__: Any) -> None:
            hooks.loop.offer()

        def on_train_epoch_end(self, *_: Any, **__: Any) -> None:
            hooks.loop.end_epoch()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            hooks.loop.close()

        def on_exception(self, *_: Any, **__: Any) -> None:
            hooks.leave()

        def teardown(self, *_: Any, **__: Any) -> None:
            hooks.leave()

    return LightningRecorder()


@final
class _Hooks:
    """Reach the training loader and the optimizer of a Lightning trainer.

    Lightning makes the loader's iterator before it calls any hook of the training. The one place that sees the loader
    before that, and only when the checkpoint is restored, is the strategy's ``process_dataloader``: it is wrapped for
    the length of a fit.
    """

    def __init__(self, loop: ForeignLoop, loss: Any) -> None:
        self.loop = loop
        self._loss = loss
        self._strategy: Any = None

    def enter(self, trainer: Any, module: Any) -> None:
        """Wrap the strategy's ``process_dataloader``."""
        self.leave()
        self._strategy = trainer.strategy
        process = trainer.strategy.process_dataloader

        def tapped(loader: Any) -> Any:
            found = process(loader)
            if trainer.training:
                self._follow(trainer, module, found)
            return found

        vars(self._strategy)["process_dataloader"] = tapped

    def leave(self) -> None:
        """Take everything back; a recording that is still open ends as after an error."""
        self.loop.abandon()
        if self._strategy is not None:
            vars(self._strategy).pop("process_dataloader", None)
            self._strategy = None

    def _follow(self, trainer: Any, module: Any, loader: Any) -> None:
        if not self.loop.between_epochs:
            raise RecordingError(
                "The training reads several DataLoaders at once, whose batches have no common ids. Train on one."
            )
        check_loader(loader, self.loop.examples)
        check_collation(loader.collate_fn, self.loop.examples)
        if not self.loop.recording:
            _check_trainer(trainer, module)
            restored = trainer.global_step > 0
            self.loop.begin(module, trainer.optimizers[0], loss=self._loss, restored=restored)
        self.loop.follow(loader)


def _check_trainer(trainer: Any, module: Any) -> None:
    """Check that a trainer makes steps in the way that is recorded.

    Raises:
        RecordingError: If not; the message names what is in the way.
    """
    from lightning.pytorch.strategies import SingleDeviceStrategy

    optimizers = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
    if not module.automatic_optimization:
        raise RecordingError(
            f"{type(module).__name__} has manual optimization (automatic_optimization=False; optimizers: "
            f"{optimizers}), which cannot be recorded by a callback. Use automatic optimization, or record your own "
            "loop with whence.record()."
        )
    if len(trainer.optimizers) != 1:
        raise RecordingError(
            f"{type(module).__name__} has {len(trainer.optimizers)} optimizers ({optimizers}); a run is recorded with "
            "one. Return one optimizer from configure_optimizers(), with several parameter groups if need be."
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise RecordingError(
            f"The trainer's strategy is {type(trainer.strategy).__name__}; a run is recorded on one device. Make "
            "Trainer(devices=1) with no strategy."
        )
