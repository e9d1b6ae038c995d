"""One HTML page that shows why a model answers as it does, and the demonstration that writes one."""

from whence.report.page import write_report
from whence.report.training import Curves, curves

__all__ = ["Curves", "curves", "write_report"]
