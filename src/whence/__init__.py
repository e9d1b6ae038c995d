"""Whence: trace what a trained network does back to where it came from."""

from whence._errors import WhenceError
from whence.datasets import Examples, as_examples
from whence.runs import Recorder, Run, open_run, record

# isort: split
# After the folder of the same name has been imported, so that `whence.audit` is the function.
from whence.audit import Audit, Completeness, audit, load_audit
from whence.counterfactual import Check, check, counterfactual
from whence.kernel import path_kernel, similarity

__all__ = (
    "Audit",
    "Check",
    "Completeness",
    "Examples",
    "Recorder",
    "Run",
    "WhenceError",
    "as_examples",
    "audit",
    "check",
    "counterfactual",
    "load_audit",
    "open_run",
    "path_kernel",
    "record",
    "similarity",
)
