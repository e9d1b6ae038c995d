"""Provenance networks: models that name the training examples behind their answer."""

from whence.provenance.indices import ClassIndex, class_index

__all__ = ("ClassIndex", "class_index")
