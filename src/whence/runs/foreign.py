"""The recording of a training whose loop is another library's: what the callbacks have in common."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from whence._errors import RecordingError
from whence.datasets import Examples
from whence.runs.recorder import Recorder
from whence.runs.tapped import TappedLoader


@final
class ForeignLoop:
    """A training loop that tells where it stands, through a callback.

    Args:
        start: `start_recording` but for model, optimizer, data and loss.
        examples: The training data.
    """

    def __init__(self, start: Callable[..., Recorder], examples: Examples) -> None:
        self.examples = examples
        self._start = start
        self._recorder: Recorder | None = None
        self._loader: TappedLoader | None = None

    @property
    def recording(self) -> bool:
        """Whether a recording is under way."""
        return self._recorder is not None

    @property
    def between_epochs(self) -> bool:
        """Whether the loop may change its loader: it has begun to read the one it has, or has none."""
        return self._loader is None or self._loader.begun

    def begin(self, model: nn.Module, optimizer: Optimizer, *, loss: Any, restored: bool) -> None:
        """Begin to record; the optimizer's settings, such as learning rates, stay the loop's own.

        Args:
            model: What the loop calls.
            optimizer: torch's own optimizer.
            loss: The loss.
            restored: Whether the loop goes on from a checkpoint of its own, which must be of the run's last step.

        Raises:
            RecordingError: If the checkpoint is of another step.
        """
        self.abandon()  # of a training before this one, whose end by an error no callback was told
        given = [parameter.detach().clone() for parameter in model.parameters()] if restored else []
        settings = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        recorder = self._start(model, optimizer, self.examples, loss=loss)
        for group, own in zip(optimizer.param_groups, settings, strict=False):
            group.update(own)
        self._recorder = recorder
        if restored and not all(
            torch.allclose(before, now, rtol=1e-5, atol=1e-8)
            for before, now in zip(given, model.parameters(), strict=True)
        ):
            self.abandon()
            raise RecordingError(
                f"The checkpoint is not of the run's last step: the run has {recorder.step} steps, and ends with other "
                "parameters. Go on from the checkpoint made after that step, or without a checkpoint (the model then "
                "starts from the end of the run, schedules start anew), or record to another path."
            )

    def follow(self, loader: Any, *, skip: int = 0) -> None:
        """Learn the batches of the loop from its loader, from now on.

        Args:
            loader: The ``DataLoader`` that the loop iterates.
            skip: How many batches of the first pass the loop leaves out.
        """
        if self._loader is not None:
            self._loader.release()
            self._loader = None
        if self._recorder is not None:
            self._loader = self._recorder.tap(loader, skip=skip)

    def offer(self) -> None:
        """Note that the model is called next with the next batch of the loader."""
        if self._loader is not None:
            self._loader.offer()

    def end_epoch(self) -> None:
        """Note the end of an epoch."""
        if self._loader is not None:
            self._loader.end_epoch()

    def close(self) -> None:
        """End the recording."""
        recorder = self._let_go()
        if recorder is not None:
            recorder.close()

    def abandon(self) -> None:
        """End the recording without another write, as after an error."""
        recorder = self._let_go()
        if recorder is not None:
            recorder.abandon()

    def _let_go(self) -> Recorder | None:
        if self._loader is not None:
            self._loader.release()
        recorder, self._recorder, self._loader = self._recorder, None, None
        return recorder
