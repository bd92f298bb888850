"""The statements about the limits of devices. Run by the writer, in its transaction."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert

from services.storage.tables import device_limits


def write_limits(connection: Connection, limits: Mapping[str, int | None]) -> None:
    """Put these limits in the place of those stored; `None` leaves none. May be run again after a failure."""
    connection.execute(delete(device_limits).where(device_limits.c.device.in_(limits)))
    rows = [{"device": device, "limit": limit} for device, limit in limits.items() if limit is not None]
    if rows:
        connection.execute(insert(device_limits), rows)
