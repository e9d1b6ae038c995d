"""Unconditional diffusion and flow models of diffusers as priors: pixel or latent, under any of its schedulers."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import ge
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._extras import require
from whence._numbers import is_number, is_whole
from whence.invariants.priors.foreseeing import foreseen
from whence.invariants.priors.latent_flow import checked_steps
from whence.invariants.priors.protocol import checked_latents, checked_shape, recomputed

EXTRA = "invariants"
Bounds = tuple[float | Sequence[float], float | Sequence[float]]
_CUT = {"clip_sample": False, "thresholding": False}
_NEEDED = ("set_timesteps", "step")


@final
class Diffusion:
    """An unconditional diffusion or flow model of diffusers, decoded by one of its schedulers (a `Chain`).

    Pipelines of diffusers cut gradients off and end in NumPy; this is a loop of its own over the model and
    ``scheduler.step``. Each decoding has a scheduler of its own, set to its first step: what multistep schedulers
    remember never leaks into the next. Only the model's call is computed again on the way back. ``clip_sample`` and
    ``thresholding`` are switched off: clamped predictions have no gradient where they are clamped, and latents have no
    range to be clamped to. A scheduler that adds noise adds the same to every sample, drawn from the seed, so that
    decoding is a function of the latents. The model is put in evaluation mode.

    Args:
        model: ``UNet2DModel``, ``DiTTransformer2DModel``, or any module that takes (sample, times) and gives a
            prediction as a tensor or as an attribute ``sample``.
        scheduler: Of diffusers; a copy is made, yours stays as it is.
        shape: (channels, height, width) of a latent; the model's configuration tells it if left out.
        steps: As the scheduler counts inference steps; some call the model more often, see ``evaluations``.
        vae: Decodes latents to images, such as ``AutoencoderKL``; None if the model makes pixels.
        label: The class to tell a conditional model: its null class (for DiT known if left out).
        bounds: What the images' -1 to 1 is brought to, for all channels or each; none is clamped to it.
        seed: Of the noise that a stochastic scheduler adds.

    Raises:
        ArgumentError: If an argument is not what it must be, or the scheduler has no steps of (prediction, time,
            sample).
        MissingExtraError: If diffusers is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        scheduler: Any,
        shape: Sequence[int] | None = None,
        steps: int = 20,
        *,
        vae: Any = None,
        label: int | None = None,
        bounds: Bounds = (-1.0, 1.0),
        seed: int = 0,
    ) -> None:
        if not is_whole(seed) or seed < 0:
            raise ArgumentError(f"seed is a whole number, at least 0; got {seed!r}.")
        self.model, self.seed, self._bounds, (self._low, self._high) = model.eval(), seed, bounds, _ends(bounds)
        self.vae: Any = None if vae is None else vae.eval()
        self._scheduler = _uncut(scheduler)
        self._inference_steps = checked_steps(steps)
        self._shape = checked_shape(_shape_of(model) if shape is None else shape)
        self._label = _label_of(model) if label is None else label
        self._walk = _Walk(self._scheduler, self._inference_steps, torch.device("cpu"), 1, seed)
        self._steps = len(self._walk.times)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return self._shape

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest end of a channel's range."""
        return float(self._low.min()), float(self._high.max())

    @property
    def steps(self) -> int:
        """How many advances a decoding has."""
        return self._steps

    @property
    def evaluations(self) -> int:
        """How many times a decoding calls the model: once an advance."""
        return self._steps

    def with_steps(self, steps: int) -> Diffusion:
        """Return the same prior, with the same weights, in another number of inference steps.

        Raises:
            ArgumentError: If the number is not whole and above 0.
        """
        return Diffusion(
            self.model, self._scheduler, self._shape, steps, vae=self.vae, label=self._label, bounds=self._bounds,
            seed=self.seed,
        )  # fmt: skip

    def decode(self, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some channels height width"]:
        """Return the images of latents.

        Raises:
            ShapeError: If latents have another shape than the prior's.
        """
        walk = self._begun(checked_latents(latents, self._shape))
        state = latents
        for step in range(self._steps):
            state = self._stepped(walk, state, step)[0]
        return self.finish(state)

    def advance(
        self, state: Float[Tensor, "some *state"], step: int
    ) -> tuple[Float[Tensor, "some *state"], Float[Tensor, "some *state"]]:
        """Return the state after a step, and the end as the model predicts it there.

        Step 0 begins anew. The scheduler remembers earlier steps of the chain that was begun last: walk one chain at
        a time, in order.

        Raises:
            ArgumentError: If the step is not the one after the last, or the scheduler does not tell what the model's
                prediction means.
        """
        if step == 0:
            self._walk = self._begun(checked_latents(state, self._shape))
        walk = self._walk
        if step != walk.done or len(state) != walk.samples:
            raise ArgumentError(
                f"The chain stands before step {walk.done} of {self._steps} with {walk.samples} samples; got step "
                f"{step} with {len(state)}. Walk one chain at a time, from step 0, in order."
            )
        after, prediction, result = self._stepped(walk, state, step)
        start = state * walk.scale if step == 0 else state
        return after, foreseen(walk.scheduler, result, prediction, start, step, walk.times[step])

    def finish(self, end: Float[Tensor, "some *state"]) -> Float[Tensor, "some channels height width"]:
        """Return the images of states at the end: decoded if there is a ``vae``, and brought to the bounds."""
        images = end
        if self.vae is not None:
            config = self.vae.config
            own = end.to(next(self.vae.parameters()).dtype) / getattr(config, "scaling_factor", 1.0)
            shift = getattr(config, "shift_factor", None)
            images = self.vae.decode(own if shift is None else own + shift).sample.to(end.dtype)
        if self._bounds == (-1, 1):
            return images
        low, high = self._low.to(images), self._high.to(images)
        return low + (high - low) * (images + 1) / 2

    def _begun(self, latents: Tensor) -> _Walk:
        self.model.eval()
        return _Walk(self._scheduler, self._inference_steps, latents.device, len(latents), self.seed)

    def _stepped(self, walk: _Walk, state: Tensor, step: int) -> tuple[Tensor, Tensor, Any]:
        """Return the state after a step, the model's prediction, and what the scheduler gave."""
        start = state * walk.scale if step == 0 else state
        given = walk.scaled(start)
        prediction = recomputed(self._predicted, given, walk.times[step]).to(state.dtype)
        kept = _one_half(walk.scheduler, prediction, start)
        result = walk.step(kept, start)
        return result.prev_sample.to(state.dtype), prediction, result

    def _predicted(self, sample: Tensor, time: Tensor) -> Tensor:
        """Return the model's prediction."""
        known = next(self.model.parameters(), sample)
        times = time.to(sample.device).expand(len(sample))
        told = {} if self._label is None else {"class_labels": torch.full_like(times, self._label, dtype=torch.int64)}
        found = self.model(sample.to(known.dtype), times, **told)
        return found if isinstance(found, Tensor) else found.sample


@final
class _Walk:
    """One decoding: a scheduler of its own, and noise of its own."""

    def __init__(self, scheduler: Any, steps: int, device: torch.device, samples: int, seed: int) -> None:
        self.scheduler, self.samples, self.done = copy.deepcopy(scheduler), samples, 0
        try:
            with _unwarned():
                self.scheduler.set_timesteps(steps, device=device)
        except ValueError as error:
            raise ArgumentError(f"{type(scheduler).__name__} refuses {steps} steps: {error}") from error
        self.times: Tensor = self.scheduler.timesteps
        self.scale = float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        self._seed, self._noise = seed, {}
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            # One for each sample, alike: what a sample becomes does not hang on the others in its batch.
            self._noise = {"generator": [torch.Generator().manual_seed(seed) for _ in range(samples)]}

    def scaled(self, state: Tensor) -> Tensor:
        """Return what the model is given for a state; flows are given it as it is."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        return state if scale is None else scale(state, self.times[self.done])

    def step(self, prediction: Tensor, state: Tensor) -> Any:
        """Take the next step; numbers that the scheduler draws from torch's own generator are the seed's too."""
        with _unwarned(), torch.random.fork_rng(devices=[state.device] if state.device.type == "cuda" else []):
            torch.manual_seed(self._seed + self.done)
            result = self.scheduler.step(prediction, self.times[self.done], state, **self._noise)
        self.done += 1
        return result


def _ends(bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Return the ends of ranges, (channels or 1, 1, 1).

    Raises:
        ArgumentError: If they are no numbers, or a greater one does not follow on each least one.
    """
    low, high = (list(one) if isinstance(one, Sequence) else [one] for one in bounds)
    whole = len(low) == len(high) and all(map(is_number, (*low, *high)))
    if not whole or any(map(ge, low, high)):
        raise ArgumentError(f"bounds are a least and a greater number, or such for each channel; got {bounds!r}.")
    least, most = torch.tensor([low, high], dtype=torch.float64)[..., None, None]
    return least, most


def _uncut(scheduler: Any) -> Any:
    """Return a copy of a scheduler that clamps nothing.

    Raises:
        ArgumentError: If it is no scheduler of unconditional chains.
    """
    lacking = [name for name in _NEEDED if not callable(getattr(scheduler, name, None))]
    if lacking:
        raise ArgumentError(
            f"A {type(scheduler).__name__} has no {lacking[0]}: it walks no chain of (prediction, time, sample). Give "
            "a scheduler such as DDIMScheduler, EulerDiscreteScheduler or FlowMatchEulerDiscreteScheduler."
        )
    changed = {name: off for name, off in _CUT.items() if name in scheduler.config}
    with _unwarned():
        return type(scheduler).from_config(scheduler.config, **changed)


def _shape_of(model: Any) -> Sequence[int]:
    """Return the shape of a latent as a model's configuration tells it.

    Raises:
        ArgumentError: If it does not.
    """
    config = getattr(model, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        raise ArgumentError(
            f"The {type(model).__name__} does not tell the size of its samples. Give shape=(channels, height, width)."
        )
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def _label_of(model: Any) -> int | None:
    """Return a model's null class; None if it takes no class.

    Raises:
        ArgumentError: If it takes a class, and has none for nothing in particular.
    """
    config = getattr(model, "config", None)
    if "DiT" in type(model).__name__ and getattr(config, "num_embeds_ada_norm", None) is not None:
        return int(config.num_embeds_ada_norm)  # type: ignore[union-attr]
    if any(getattr(config, name, None) is not None for name in ("num_class_embeds", "class_embed_type")):
        raise ArgumentError(
            f"The {type(model).__name__} wants to be told a class. Give the one it was trained on as its null class, "
            "or the one whose images the prior is to make: label=."
        )
    return None


def _one_half(scheduler: Any, prediction: Tensor, state: Tensor) -> Tensor:
    """Return a prediction without its variance, unless the scheduler takes that."""
    learned = str(getattr(scheduler.config, "variance_type", "")).startswith("learned")
    return prediction if learned else prediction[:, : state.shape[1]]


@contextmanager
def _unwarned() -> Iterator[None]:
    """Hold back what NumPy warns of diffusers' schedulers: their use of arrays, which is not the caller's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def diffusers() -> Any:
    """Import diffusers, whose parts warn of each other.

    Raises:
        MissingExtraError: If it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require("diffusers", EXTRA)
