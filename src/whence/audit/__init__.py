"""The complete decomposition of what a run did to each target, and its measured proof."""

from whence.audit.api import audit
from whence.audit.result import Audit, Completeness
from whence.audit.storage import load_audit

__all__ = ["Audit", "Completeness", "audit", "load_audit"]
