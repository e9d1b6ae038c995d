"""Optimizer steps as linear maps (PLGK section 3.2), run forwards or backwards; and their whole derivatives."""

from whence.optimizers.curved import MOMENTS, CurvedStep, Scaled, curved_step, root_of_second_moment
from whence.optimizers.linear import LinearStep
from whence.optimizers.rules import SUPPORTED, buffer_name, initial_buffer, linear_step

__all__ = [
    "MOMENTS",
    "SUPPORTED",
    "CurvedStep",
    "LinearStep",
    "Scaled",
    "buffer_name",
    "curved_step",
    "initial_buffer",
    "linear_step",
    "root_of_second_moment",
]
