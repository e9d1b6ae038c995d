"""Solvers: ways from latents of a prior to inputs that take the query's values."""

from whence.invariants.solvers.first_order import FirstOrder, InfiniteOptimization
from whence.invariants.solvers.gauss_newton import GaussNewton
from whence.invariants.solvers.metropolis import Metropolis
from whence.invariants.solvers.protocol import Search, Solver, Status

__all__ = (
    "FirstOrder",
    "GaussNewton",
    "InfiniteOptimization",
    "Metropolis",
    "Search",
    "Solver",
    "Status",
)
