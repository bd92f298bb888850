"""The same values logged with other trackers, and looked for by another process.

Both sides run as programs of their own (`python -m benchmarks.tracking write|read TOOL FOLDER ...`), so that a tracker
may live in another environment than the project.
"""
