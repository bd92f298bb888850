"""Log line in, metrics and stage out: pure, without a clock, a file or a thread.

The log line is the interface between any trainer and this service, so what a line means is decided
here and nowhere else.
"""

from services.parsing.checking import FORMATS, check_reading
from services.parsing.line_parser import LineParser, ParsedLine
from services.parsing.memory import Memory
from services.parsing.trial import TrialTooSlow, try_reading

__all__ = ["FORMATS", "LineParser", "Memory", "ParsedLine", "TrialTooSlow", "check_reading", "try_reading"]
