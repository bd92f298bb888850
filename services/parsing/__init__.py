"""Log line in, metrics and stage out: pure, without a clock, a file or a thread.

The log line is the interface between any trainer and this service, so what a line means is decided
here and nowhere else.
"""

from services.parsing.line_parser import LineParser, ParsedLine

__all__ = ["LineParser", "ParsedLine"]
