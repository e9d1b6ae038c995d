"""Applications of provenance networks, each measured beside what needs no such network."""

from whence.evaluation.provenance.membership import membership_by_index

__all__ = ("membership_by_index",)
