"""Rules that watch what is committed, and those who are told when one fires."""

from services.alerts.service import AlertService

__all__ = ["AlertService"]
