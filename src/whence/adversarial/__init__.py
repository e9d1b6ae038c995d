"""Adversarial inputs: attacks, what training did to them, why it did not help, and the cure that tests the reason."""

from whence.adversarial.attacks import ATTACKS, attack
from whence.adversarial.cancelling import (
    cancellation_ratio,
    first_modes,
    mode_coefficients,
    mode_concentration,
    mode_differences,
    modes_over_time,
    sensitivity,
)
from whence.adversarial.cure import PAPER, SMALLEST, Recipe, cure, with_cure
from whence.adversarial.findings import Finding, findings
from whence.adversarial.groups import Groups, random_like
from whence.adversarial.hardening import Hardening, Pgd, compare_hardened, train_against
from whence.adversarial.influences import (
    audit_groups,
    influence_agreement,
    influence_over_time,
    path_profile,
    perturbation_path,
)
from whence.adversarial.outcomes import agreement, loss_over_time, outcomes
from whence.adversarial.regime import kernel_regime
from whence.adversarial.study import Plan, Study, study

__all__ = [
    "ATTACKS",
    "PAPER",
    "SMALLEST",
    "Finding",
    "Groups",
    "Hardening",
    "Pgd",
    "Plan",
    "Recipe",
    "Study",
    "agreement",
    "attack",
    "audit_groups",
    "cancellation_ratio",
    "compare_hardened",
    "cure",
    "findings",
    "first_modes",
    "influence_agreement",
    "influence_over_time",
    "kernel_regime",
    "loss_over_time",
    "mode_coefficients",
    "mode_concentration",
    "mode_differences",
    "modes_over_time",
    "outcomes",
    "path_profile",
    "perturbation_path",
    "random_like",
    "sensitivity",
    "study",
    "train_against",
    "with_cure",
]
