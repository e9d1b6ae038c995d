"""What a model would say had training examples not been there: the run's own derivative, and training again."""

from whence.counterfactual.api import counterfactual
from whence.counterfactual.check import Check, check
from whence.counterfactual.removal import Removals, removals

__all__ = ["Check", "Removals", "check", "counterfactual", "removals"]
