"""The rules: per-example shares against the papers' recursions written out, and what is refused."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from whence._errors import ArgumentError, UnsupportedOptimizerError
from whence.optimizers import SUPPORTED, buffer_name, initial_buffer, linear_step

STEPS, EXAMPLES = 6, 3


def adam(start: Tensor, gradients: list[Tensor], *, coupled: float, decoupled: float) -> Tensor:
    """Adam's and AdamW's shares with lr 0.1, betas (0.8, 0.9), eps 0.01. Row 0 is the start's."""
    share, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start[0])
    for n, g in enumerate(gradients, start=1):
        g_all = g + coupled * share
        m = 0.8 * m + 0.2 * g_all
        v = 0.9 * v + 0.1 * g_all.sum(0) ** 2
        scale = 0.1 / (1 - 0.8**n) / ((v / (1 - 0.9**n)).sqrt() + 0.01)
        share = (1 - 0.1 * decoupled) * share - scale * m
    return share


def rmsprop(start: Tensor, gradients: list[Tensor]) -> Tensor:
    """Centered, with lr 0.1, alpha 0.7, momentum 0.6, eps 0.01, weight decay 0.3."""
    share, buffer = start.clone(), torch.zeros_like(start)
    v = mean = torch.zeros_like(start[0])
    for g in gradients:
        g_all = g + 0.3 * share
        v = 0.7 * v + 0.3 * g_all.sum(0) ** 2
        mean = 0.7 * mean + 0.3 * g_all.sum(0)
        buffer = 0.6 * buffer + g_all / ((v - mean**2).sqrt() + 0.01)
        share = share - 0.1 * buffer
    return share


def adagrad(start: Tensor, gradients: list[Tensor]) -> Tensor:
    """With lr 0.1, lr_decay 0.2, initial value 0.5, eps 0.01, weight decay 0.3."""
    share, total = start.clone(), torch.full_like(start[0], 0.5)
    for n, g in enumerate(gradients, start=1):
        g_all = g + 0.3 * share
        total = total + g_all.sum(0) ** 2
        share = share - 0.1 / (1 + (n - 1) * 0.2) / (total.sqrt() + 0.01) * g_all
    return share


def sgd(start: Tensor, gradients: list[Tensor], *, nesterov: bool) -> Tensor:
    """Maximizing, with lr 0.1, momentum 0.7, weight decay 0.3, dampening 0.4 unless Nesterov."""
    share, buffer = start.clone(), torch.zeros_like(start)
    for n, g in enumerate(gradients):
        g_all = -g + 0.3 * share
        buffer = g_all if n == 0 else 0.7 * buffer + (g_all if nesterov else 0.6 * g_all)
        share = share - 0.1 * (g_all + 0.7 * buffer if nesterov else buffer)
    return share


def plain_sgd(start: Tensor, gradients: list[Tensor]) -> Tensor:
    """With lr 0.1, weight decay 0.3."""
    share = start.clone()
    for g in gradients:
        share = share - 0.1 * (g + 0.3 * share)
    return share


Make = Callable[[list[torch.nn.Parameter]], Optimizer]
Reference = Callable[[Tensor, list[Tensor]], Tensor]
BETAS = (0.8, 0.9)
PAIRS: dict[str, tuple[Make, Reference]] = {
    "SGD": (lambda p: SGD(p, lr=0.1, weight_decay=0.3), plain_sgd),
    "SGD dampening": (
        lambda p: SGD(p, lr=0.1, momentum=0.7, dampening=0.4, weight_decay=0.3, maximize=True),
        lambda start, g: sgd(start, g, nesterov=False),
    ),
    "SGD Nesterov": (
        lambda p: SGD(p, lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.3, maximize=True),
        lambda start, g: sgd(start, g, nesterov=True),
    ),
    "RMSprop": (
        lambda p: RMSprop(p, lr=0.1, alpha=0.7, momentum=0.6, eps=0.01, weight_decay=0.3, centered=True),
        rmsprop,
    ),
    "Adagrad": (
        lambda p: Adagrad(p, lr=0.1, lr_decay=0.2, initial_accumulator_value=0.5, eps=0.01, weight_decay=0.3),
        adagrad,
    ),
    "Adam": (
        lambda p: Adam(p, lr=0.1, betas=BETAS, eps=0.01, weight_decay=0.3),
        lambda start, g: adam(start, g, coupled=0.3, decoupled=0.0),
    ),
    "AdamW": (
        lambda p: AdamW(p, lr=0.1, betas=BETAS, eps=0.01, weight_decay=0.3),
        lambda start, g: adam(start, g, coupled=0.0, decoupled=0.3),
    ),
}


def test_every_supported_optimizer_has_a_reference() -> None:
    made = {type(make([torch.nn.Parameter(torch.zeros(1))])) for make, _ in PAIRS.values()}
    assert made == set(SUPPORTED)


@pytest.mark.parametrize("name", PAIRS)
def test_each_examples_share_is_that_of_the_written_out_recursion(name: str) -> None:
    make, reference = PAIRS[name]
    start = torch.zeros(1 + EXAMPLES, 5, dtype=torch.float64)
    start[0] = torch.randn(5)
    gradients = [torch.randn(1 + EXAMPLES, 5, dtype=torch.float64) for _ in range(STEPS)]
    for g in gradients:
        g[0] = 0  # row 0 is the share of the initial parameters
    weight = torch.nn.Parameter(start[0].clone())
    optimizer = make([weight])
    share, buffer = start, torch.zeros_like(start)
    for n, g in enumerate(gradients):
        weight.grad = g.sum(0)
        optimizer.step()
        share, buffer = linear_step(optimizer, weight, first=n == 0).forward(share, buffer, g)
    # Both are the same sums in another order; v is summed from shares here and from gradients in torch. The factor
    # 1e3 is the 9 roundings a step, 6 steps, and 1 / (sqrt(v) + eps), whose relative error is that of v over 2.
    torch.testing.assert_close(share, reference(start, gradients), rtol=1e3 * 2.2e-16, atol=1e3 * 2.2e-16)


class MyAdam(Adam):
    """Not Adam: it may step differently."""


def one_weight(dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2, dtype=dtype))


def stepped(optimizer: Optimizer, weight: torch.nn.Parameter, gradient: float) -> Optimizer:
    weight.grad = torch.full_like(weight, gradient)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("read", [linear_step, initial_buffer])
@pytest.mark.parametrize(("kind", "named"), [(LBFGS, "torch.optim.lbfgs.LBFGS"), (NAdam, "torch.optim.nadam.NAdam")])
def test_an_unknown_optimizer_is_refused_by_name_with_the_known_ones(
    kind: Callable[[list[Tensor]], Optimizer], named: str, read: Callable[[Optimizer, Tensor], object]
) -> None:
    weight = one_weight()
    expected = rf"no rule for the optimizer {re.escape(named)} .* SGD, RMSprop, Adagrad, Adam, AdamW\.$"
    with pytest.raises(UnsupportedOptimizerError, match=expected):
        read(kind([weight]), weight)


def test_a_subclass_of_a_known_optimizer_is_refused() -> None:
    weight = one_weight()
    with pytest.raises(UnsupportedOptimizerError, match=r"MyAdam \(subclasses do not count"):
        linear_step(MyAdam([weight]), weight)


@pytest.mark.parametrize("read", [linear_step, initial_buffer])
def test_a_foreign_parameter_is_refused_even_when_equal(read: Callable[[Optimizer, Tensor], object]) -> None:
    weight = one_weight()
    with pytest.raises(ArgumentError, match=r"Adam does not hold this parameter of shape \(2,\)\. Pass one of its own"):
        read(Adam([weight]), weight.detach().clone())


@pytest.mark.parametrize(("kind", "entry"), [(Adam, "exp_avg_sq"), (RMSprop, "square_avg")])
def test_a_parameter_never_updated_is_refused(kind: Callable[[list[Tensor]], Optimizer], entry: str) -> None:
    weight = one_weight()
    with pytest.raises(ArgumentError, match=rf"has not updated this parameter of shape \(2,\) yet.* '{entry}'.*after"):
        linear_step(kind([weight]), weight)


def test_dampening_wants_to_know_whether_the_step_was_the_first() -> None:
    weight = one_weight()
    optimizer = stepped(SGD([weight], lr=0.1, momentum=0.9, dampening=0.5), weight, 1.0)
    with pytest.raises(ArgumentError, match=r"dampening=0\.5 differs .* first=True .* first=False"):
        linear_step(optimizer, weight)
    assert linear_step(optimizer, weight, first=True).kappa == 1.0
    assert linear_step(optimizer, weight, first=False).kappa == 0.5


def test_without_dampening_or_momentum_first_need_not_be_said() -> None:
    weight = one_weight()
    assert linear_step(stepped(SGD([weight], lr=0.1, momentum=0.9), weight, 1.0), weight).kappa == 1.0
    assert not linear_step(stepped(SGD([weight], lr=0.1, dampening=0.5), weight, 1.0), weight).buffered


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda p: Adam(p, eps=0.0), torch.float64),
        (lambda p: Adagrad(p, eps=0.0), torch.float32),
        (lambda p: RMSprop(p, eps=0.0, centered=True), torch.float64),
        (Adam, torch.float16),  # 1e-8 is 0 there
    ],
    ids=["Adam", "Adagrad", "RMSprop", "float16"],
)
def test_a_division_by_zero_is_refused_with_its_eps_and_type(make: Make, dtype: torch.dtype) -> None:
    weight = one_weight(dtype)
    optimizer = stepped(make([weight]), weight, 0.0)
    expected = rf"not above 0 in 2 of 2 entries .*eps=(0\.0|1e-08), {dtype}\).*larger eps"
    with pytest.raises(UnsupportedOptimizerError, match=expected):
        linear_step(optimizer, weight)


def test_eps_of_zero_is_fine_while_no_second_moment_is_zero() -> None:
    weight = one_weight()
    step = linear_step(stepped(Adam([weight], lr=0.1, eps=0.0), weight, 2.0), weight)
    torch.testing.assert_close(step.sigma, torch.full((2,), 0.5, dtype=torch.float64))  # (0.1 / 0.1) / sqrt(v / 0.001)


def test_a_complex_parameter_is_refused() -> None:
    weight = one_weight(torch.complex64)
    with pytest.raises(UnsupportedOptimizerError, match=r"complex \(torch\.complex64\).*two real parameters"):
        linear_step(stepped(Adam([weight]), weight, 1.0), weight)


def test_there_is_no_initial_buffer_before_the_first_step_nor_without_momentum() -> None:
    weight = one_weight()
    assert initial_buffer(Adam([weight]), weight) is None
    assert initial_buffer(stepped(SGD([weight], lr=0.1), weight, 1.0), weight) is None
    assert initial_buffer(stepped(Adagrad([weight]), weight, 1.0), weight) is None


@pytest.mark.parametrize("name", PAIRS)
def test_the_initial_buffer_is_the_state_entry_of_the_buffers_name(name: str) -> None:
    weight = one_weight()
    optimizer = stepped(PAIRS[name][0]([weight]), weight, 1.0)
    entry, found = buffer_name(type(optimizer)), initial_buffer(optimizer, weight)
    expected = None if entry is None else optimizer.state[weight].get(entry)
    assert (None if found is None else found.tolist()) == (None if expected is None else expected.tolist())


def test_an_unknown_class_has_no_buffer_name() -> None:
    with pytest.raises(UnsupportedOptimizerError, match=r"no rule for the optimizer .*MyAdam"):
        buffer_name(MyAdam)
