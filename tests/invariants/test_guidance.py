"""Guidance bends each sample's own chain; traversal stays on the level set; triangles have their corners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tests.invariants.making import plain
from whence._errors import ArgumentError, ShapeError
from whence.invariants import Objective, draw, guided, traverse, triangle

DOUBLE = torch.float64


class Halving:
    """Two steps, each of which halves the state; the foretold end is what is left after all."""

    latent_shape = (3,)
    steps = 2
    evaluations = 2

    def advance(
        self, state: Float[Tensor, "some 3"], step: int
    ) -> tuple[Float[Tensor, "some 3"], Float[Tensor, "some 3"]]:
        return state / 2, state / 2 ** (2 - step)

    def finish(self, end: Float[Tensor, "some 3"]) -> Float[Tensor, "some 3"]:
        return 4 * end + 0.1 * end.sin()

    def decode(self, latents: Float[Tensor, "some 3"]) -> Float[Tensor, "some 3"]:
        return self.finish(latents / 4)


def norm_of() -> Objective:
    return Objective(lambda points: points.square().sum(1), "squared length", tolerance=0.05)


QUERY = torch.tensor([1.0, 0.0, 0.5], dtype=DOUBLE)


def test_guidance_of_no_strength_decodes_the_noise_as_it_is() -> None:
    chain = Halving()
    found = guided(norm_of(), QUERY, chain, 4, strength=0.0, seed=3)
    noise = draw(chain, 4, 3, dtype=DOUBLE)
    np.testing.assert_array_equal(found.inputs, chain.decode(noise))
    np.testing.assert_array_equal(found.latents, noise)
    assert found.certificate.evaluations.values.tolist() == [2 * 3] * 4
    assert set(found.certificate.status.values) <= {"solved", "missed"}


def test_a_guided_step_goes_down_each_samples_own_distance_not_squared() -> None:
    """Written out for the last sample alone: others in the batch do not bend it."""
    chain, objective = Halving(), norm_of()
    found = guided(objective, QUERY, chain, 5, strength=0.02, seed=3)
    state = draw(chain, 5, 3, dtype=DOUBLE)[4]
    for step in range(2):
        at = state.clone().requires_grad_()
        end = at / 2 ** (2 - step)
        value = (4 * end + 0.1 * end.sin()).square().sum()
        (value - QUERY.square().sum()).abs().backward()
        assert at.grad is not None
        state = state / 2 - 0.02 * at.grad
    np.testing.assert_allclose(found.inputs[4], chain.finish(state[None])[0], atol=1e-12)
    free = guided(objective, QUERY, chain, 5, strength=0.0, seed=3)
    assert float(found.certificate.residual.mean()) < float(free.certificate.residual.mean())


def test_a_gradient_without_end_bends_no_step() -> None:
    """The root has an infinite slope at 0, where it stands here for every sample."""

    def steep(points: Tensor) -> Tensor:
        return points.detach().square().sum(1) + (points - points.detach()).sqrt().sum(1)

    chain = Halving()
    found = guided(Objective(steep, "steep"), QUERY, chain, 4, seed=3)
    np.testing.assert_array_equal(found.inputs, chain.decode(draw(chain, 4, 3, dtype=DOUBLE)))


def test_after_an_interrupt_the_samples_that_were_not_guided_are_what_their_noise_decodes_to() -> None:
    """One sample at a time, two steps each: the 5th step is of the third sample."""

    class Stopped(Halving):
        begun = 0

        def advance(
            self, state: Float[Tensor, "some 3"], step: int
        ) -> tuple[Float[Tensor, "some 3"], Float[Tensor, "some 3"]]:
            self.begun += 1
            if self.begun == 5:
                raise KeyboardInterrupt
            return super().advance(state, step)

    chain, whole = Stopped(), guided(norm_of(), QUERY, Halving(), 4, strength=0.02, seed=3)
    found = guided(norm_of(), QUERY, chain, 4, strength=0.02, seed=3, memory_budget=1)
    np.testing.assert_allclose(found.inputs[:2], whole.inputs[:2], rtol=1e-12)
    np.testing.assert_array_equal(found.inputs[2:], chain.decode(found.latents[2:]))
    assert found.certificate.status.values[2:].tolist() == ["interrupted"] * 2
    assert found.certificate.evaluations.values.tolist() == [6, 6, 0, 0]


def test_guidance_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ArgumentError, match="n is how many samples are wanted, 1 or more; got 0"):
        guided(norm_of(), QUERY, Halving(), 0)
    with pytest.raises(ArgumentError, match=r"strength is a number from 0; got -1\.0"):
        guided(norm_of(), QUERY, Halving(), 1, strength=-1.0)
    with pytest.raises(ShapeError, match=r"query has the shape \(2,\)"):
        guided(norm_of(), QUERY[:2], Halving(), 1)


def test_a_traversal_stays_on_the_level_set_and_comes_as_near_as_that_allows() -> None:
    """On a sphere of radius 1, towards (0, 2): it ends at (0, 1), 1/√2 away in root mean square."""
    objective = Objective(lambda points: points.square().sum(1), "squared length", tolerance=1e-4)
    source, target = torch.tensor([1.0, 0.0], dtype=DOUBLE), torch.tensor([0.0, 2.0], dtype=DOUBLE)
    walk = traverse(objective, source, target, size=0.2)
    away = walk.steps.distance.values
    assert float(walk.steps.residual.max()) <= 1e-4
    assert bool((np.diff(away) < 0).all())
    assert away[-1] == pytest.approx(2**-0.5, abs=1e-3)
    assert torch.equal(walk.path[0], source)
    latent = traverse(objective, source, target, plain(2), size=0.2)
    np.testing.assert_array_equal(latent.path, walk.path)


@pytest.mark.parametrize("fall", [None, 0.1])
def test_where_the_gradient_vanishes_a_traversal_goes_straight_and_has_no_nan(fall: float | None) -> None:
    objective = Objective(lambda points: 0 * points.sum(1) + 1.0, "constant")
    walk = traverse(objective, torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE), steps=5, size=0.5, fall=fall)
    np.testing.assert_allclose(walk.path[-1], 1 - 0.5**5, atol=1e-12)
    assert bool(walk.path.isfinite().all())


def test_on_one_side_a_value_rises_as_it_likes_and_falls_no_more_than_is_allowed() -> None:
    objective = Objective(lambda points: points[:, 0], "first", tolerance=1e-3)
    rises = traverse(objective, torch.zeros(2, dtype=DOUBLE), torch.tensor([3.0, 1.0]).double(), size=0.5, fall=0.2)
    np.testing.assert_allclose(rises.path[-1], [3.0, 1.0], atol=1e-6)
    falls = traverse(objective, torch.zeros(2, dtype=DOUBLE), torch.tensor([-3.0, 1.0]).double(), size=0.5, fall=0.2)
    assert float(falls.path[:, 0].min()) >= -0.2
    np.testing.assert_allclose(falls.path[-1, 1], 1.0, atol=1e-6)


def test_on_one_side_a_curved_level_set_is_followed_and_not_left_by_the_fall() -> None:
    """On a circle tangents leave the disc's inside: a value that falls with each step has to be led back up."""
    objective = Objective(lambda points: -points.square().sum(1), "minus squared length", tolerance=1e-4)
    source, target = torch.tensor([1.0, 0.0], dtype=DOUBLE), torch.tensor([-1.0, 1e-3], dtype=DOUBLE)
    over = torch.tensor([0.0, 2.0], dtype=DOUBLE)
    walk = traverse(objective, source, over, size=0.2, fall=0.05)
    assert float(walk.path.square().sum(1).max()) <= 1 + 0.05 + 1e-9
    assert float(walk.path[:-1].square().sum(1).max()) < 1.001  # on the circle, but for the end
    assert float((walk.path[-1] - over).norm()) < 1.001
    straight = traverse(objective, source, target, size=0.2, steps=400, fall=0.05)
    np.testing.assert_allclose(straight.path[-1], target, atol=1e-6)  # the value is higher all the way


def test_a_traversal_refuses_what_it_cannot_do() -> None:
    here = torch.zeros(2, dtype=DOUBLE)
    with pytest.raises(ArgumentError, match=r"steps is 1 or more and size a share above 0, to 1; got 0 and 0\.05"):
        traverse(norm_of(), here, here, steps=0)
    with pytest.raises(ShapeError, match=r"need the shape \(2,\); got \(2,\) and \(3,\)"):
        traverse(norm_of(), here, torch.zeros(3, dtype=DOUBLE))
    with pytest.raises(ArgumentError, match="`fall` is for one value; both has 2"):
        traverse(Objective(lambda points: points, "both"), here, here, fall=0.1)
    with pytest.raises(ArgumentError, match="`target` has numbers that are not finite"):
        traverse(norm_of(), here, here + torch.nan)
    with pytest.raises(ArgumentError, match=r"`fall` is how far the value may fall, a number from 0; got -0\.1"):
        traverse(norm_of(), here, here, fall=-0.1)


def test_a_target_of_another_type_is_taken_in_the_sources() -> None:
    walk = traverse(norm_of(), QUERY, (QUERY + 1).float(), steps=2)
    assert walk.path.dtype == DOUBLE


def test_a_triangle_has_66_points_with_its_corners_among_them() -> None:
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=DOUBLE)
    told = triangle(norm_of(), corners)
    weights = told.weight.values
    assert weights.shape == (66, 3)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert len({tuple(np.round(row, 6)) for row in weights}) == 66
    assert [int((weights[:, corner] == 1).sum()) for corner in range(3)] == [1, 1, 1]
    np.testing.assert_allclose(told.residual, np.abs(((weights @ corners.numpy()) ** 2).sum(1) - 1), atol=1e-12)
    np.testing.assert_array_equal(told.inside, told.residual.values <= 0.05)
    assert bool(told.inside[(weights == 1).any(1)].all())
    assert int(told.side.sum()) == 30
    values = ((weights @ corners.numpy()) ** 2).sum(1)
    assert told.fall.values.tolist() == [0.0, 0.1, 0.2, 0.3]
    for fall in (0.1, 0.2, 0.3):
        assert float(told.share.sel(fall=fall)) == pytest.approx((np.abs(values - 1) <= fall + 1e-12).mean())
        assert float(told.share_above.sel(fall=fall)) == pytest.approx((values >= 1 - fall - 1e-12).mean())
    assert float(told.share_above.sel(fall=0.0)) == pytest.approx(3 / 66)  # the corners: all else is inside the disc
    pair = triangle(Objective(lambda points: points, "both"), corners, falls=[5.0])
    assert (float(pair.share[0]), "share_above" in pair) == (1.0, False)
    with pytest.raises(ArgumentError, match=r"falls are one or more distances from the level, from 0; got \[-0\.1\]"):
        triangle(norm_of(), corners, falls=[-0.1])
    with pytest.raises(ShapeError, match="A triangle has three corners; got 2"):
        triangle(norm_of(), corners[:2])
    with pytest.raises(ArgumentError, match="resolution is how many parts a side has, 1 or more; got 0"):
        triangle(norm_of(), corners, resolution=0)
