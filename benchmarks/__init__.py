"""Measurements that print what they compared. Run one as `python -m benchmarks.capture`."""
