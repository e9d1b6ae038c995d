"""Optimizer steps as linear maps (PLGK section 3.2): read from torch, run forwards or backwards."""

from whence.optimizers.linear import LinearStep
from whence.optimizers.rules import SUPPORTED, buffer_name, initial_buffer, linear_step, root_of_second_moment

__all__ = ["SUPPORTED", "LinearStep", "buffer_name", "initial_buffer", "linear_step", "root_of_second_moment"]
