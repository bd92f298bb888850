"""What tasks have measured over their whole life: series, comparisons, exports."""

from services.history.comparison import Comparison
from services.history.series import MetricHistory

__all__ = ["Comparison", "MetricHistory"]
