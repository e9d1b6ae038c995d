"""Membership: was an input in the training set; scores of members and others, and what the inputs alone say."""

from whence.membership.blind import blind_control
from whence.membership.scores import confidence, entropy, log_margin, nearest_distance

__all__ = ("blind_control", "confidence", "entropy", "log_margin", "nearest_distance")
