"""Moments as people write them, and as the log has them: local times of the service, without an offset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from client.commands.exits import Unusable

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_of(text: str) -> datetime:
    """With an offset where a moment is meant, without one where it is written as the log has it.

    Raises: Unusable: it is none.
    """
    try:
        if span := re.fullmatch(r"(\d{1,9})([smhd])", text):
            return datetime.now(UTC) - timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise Unusable(f"--since: {text!r} is before the first or after the last year of the calendar.") from error
    except ValueError as error:
        raise Unusable(f"--since: {text!r} is no time; write 90s, 10m, 2h, 3d or 2026-01-31T12:00.") from error


def on_service_clock(moment: datetime, changes: Sequence[datetime], *, is_local: bool) -> datetime:
    """A moment as the service's log has it.

    The service says its offset with each change of a task's status, and of these the last one counts: clocks may have
    been put forward or back since the first. They may have been since the last one too. The zone of this machine
    knows, so it is taken where the service runs here and had the offset of this zone then.

    Args:
        changes: when the task's status changed, oldest first, with the offsets that the service had.
        is_local: whether the service runs on this machine.
    """
    zone: tzinfo | None = changes[-1].tzinfo if changes else None
    if changes and is_local and changes[-1].astimezone().utcoffset() == changes[-1].utcoffset():
        zone = None
    try:
        return moment.astimezone(zone).replace(tzinfo=None)
    except OverflowError:  # in the first or last hours of the calendar
        return moment.replace(tzinfo=None)
