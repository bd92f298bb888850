"""Trainers from the package index, run unmodified, against what the service shows of them.

`scripts/` holds what a user of each library would write: no line of it knows of the service.
"""
