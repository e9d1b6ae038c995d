"""Train in a child process, kill it at a random moment, open what it left, and go on: run by test_robustness.py."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tests.runs.training import Recipe, adam, data, noisy_model
from whence import _errors as errors
from whence.runs import record

RECIPE = Recipe(model=noisy_model, epochs=1_000_000)
EVERY = 3  # steps between snapshots: many moments fall into writing one


def train(path: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Record, going on with what is there; up to step ``stop``, or until the end of this process."""
    model = noisy_model()
    optimizer = adam(model)
    torch.manual_seed(11)
    recorder: Any
    with record(path, model, optimizer, data(), loss=F.cross_entropy, snapshot_every=EVERY, resume=True) as recorder:
        for _ in range(recorder.epoch, RECIPE.epochs):
            for inputs, labels in recorder.batches(RECIPE.batch_size):
                if recorder.step == stop:
                    return dict(model.state_dict())
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    return {}


def kill_after(path: Path, seconds: float) -> None:
    """Train in a child process and kill it."""
    child = os.fork()
    if child == 0:
        try:
            train(path)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the training ended by itself, so it cannot be resumed")


def seconds_to_record(path: Path) -> float:
    """Return how long it takes to begin a run and make a few steps."""
    began = time.perf_counter()
    train(path, stop=8)
    return time.perf_counter() - began


def main(path: Path, kills: int, seed: int) -> None:
    """Kill ``kills`` times; after each, open the run and walk its last steps again. Print what was found as JSON."""
    torch.set_num_threads(1)
    moments = random.Random(seed)
    steps: list[int] = []
    longest = 1.5 * min(seconds_to_record(path.with_name(f"timed {number}")) for number in range(3))
    for _ in range(kills):
        kill_after(path, moments.uniform(0.0, longest))
        try:
            run = RECIPE.open(path)
        except errors.RunNotFoundError:
            steps.append(0)
            continue
        walked = list(run.replay(max(0, run.steps - 2 * EVERY), run.steps))
        steps.append(run.steps if not walked or walked[-1].index == run.steps - 1 else -1)
        run.close()
    end = train(path, stop=steps[-1] + 5)
    verification = RECIPE.open(path).verify()
    whole = train(path.with_name("whole"), stop=steps[-1] + 5)
    sys.stdout.write(
        json.dumps(
            {
                "steps": steps,
                "left": len(list(path.rglob("*.tmp"))),
                "exact": verification.exact == verification.snapshots,
                "equal": all(torch.equal(value, whole[name]) for name, value in end.items()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
