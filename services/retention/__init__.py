"""What of the past is kept, and for how long.

Lines and points of ended tasks go after KEEP_LINES_DAYS; the task, its last metrics and its best values stay. Of
completed trainings `best.pt` and KEEP_CHECKPOINTS others stay. `python -m services.retention --dry-run` says what would
go; the service lets it go once a day.
"""

from services.retention.keeper import Removed, Retention
from services.retention.plans import Rules

__all__ = ["Removed", "Retention", "Rules"]
