"""Random hyper-parameters of every supported optimizer."""

from typing import Any

from hypothesis import strategies as st
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

seeds = st.integers(0, 2**16)
rate = st.floats(1e-4, 0.5)
decay = st.one_of(st.just(0.0), st.floats(1e-4, 0.5))
epsilon = st.floats(1e-10, 0.5)
fraction = st.floats(0.0, 0.99)
momentum = st.one_of(st.just(0.0), st.floats(0.01, 0.99))
common: dict[str, st.SearchStrategy[Any]] = {
    "lr": rate, "weight_decay": decay, "maximize": st.booleans(), "foreach": st.booleans()
}  # fmt: skip
adam = {**common, "betas": st.tuples(fraction, fraction), "eps": epsilon, "amsgrad": st.booleans()}

options: dict[type[Optimizer], st.SearchStrategy[dict[str, Any]]] = {
    SGD: st.one_of(
        st.fixed_dictionaries({**common, "momentum": momentum, "dampening": fraction}),
        st.fixed_dictionaries({**common, "momentum": st.floats(0.01, 0.99), "nesterov": st.just(True)}),
    ),
    RMSprop: st.fixed_dictionaries(
        {**common, "alpha": st.floats(0.1, 0.99), "eps": epsilon, "centered": st.booleans(), "momentum": momentum}
    ),
    Adagrad: st.fixed_dictionaries(
        {**common, "lr_decay": fraction, "initial_accumulator_value": st.floats(0.0, 1.0), "eps": epsilon}
    ),
    Adam: st.fixed_dictionaries({**adam, "decoupled_weight_decay": st.booleans()}),
    AdamW: st.fixed_dictionaries(adam),
}
