"""Inner loops of an audit, compiled by the machine's own C compiler.

On Linux, a C compiler that is found (``cc``, ``gcc`` or ``clang``, or the command in ``$WHENCE_CC``; empty: none) makes
them once a process and type of numbers. `has_kernels` says whether there are any; without, the callers of this package
compute with torch's own operations.
"""

from whence.compiled.correlation import convolution
from whence.compiled.loading import has_kernels
from whence.compiled.walking import Carried, Factors, Transpose, walk

__all__ = ("Carried", "Factors", "Transpose", "convolution", "has_kernels", "walk")
