"""What a run was made from: code, packages, machine, data, request.

Never a reason for a run to fail, and for a bounded time one to wait.
"""

from services.provenance.difference import differences
from services.provenance.keeper import ProvenanceKeeper

__all__ = ["ProvenanceKeeper", "differences"]
