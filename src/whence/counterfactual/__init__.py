"""What a model would say had training examples not been there: the run's own derivative, and training again."""

from whence.counterfactual.api import counterfactual
from whence.counterfactual.check import Check, check
from whence.counterfactual.removal import Removals, removals
from whence.counterfactual.repair import Outcome, Repair, margin, repairs
from whence.counterfactual.storage import load_effects

__all__ = [
    "Check",
    "Outcome",
    "Removals",
    "Repair",
    "check",
    "counterfactual",
    "load_effects",
    "margin",
    "removals",
    "repairs",
]
