"""What a cache says about its own labels and images: likely label errors, duplicates, leaks between splits.

Private: `heads` has the public names.
"""

from heads.auditing.audit import Audit, audit
from heads.auditing.duplicates import Duplicate, DuplicateGroup
from heads.auditing.labels import LabelError

__all__ = ["Audit", "Duplicate", "DuplicateGroup", "LabelError", "audit"]
