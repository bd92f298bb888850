"""The same values logged with other trackers, and looked for by another process.

Both sides run as programs of their own (`python -m benchmarks.tracking write|read TOOL FOLDER ...`), so that a tracker
may live in another environment than the project:

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/tracking/requirements.txt
    python -m benchmarks.capture --only trackers --peers PEERS/bin/python

The one that looks does so a thousand times a second, by a query where the tracker has a database. MLflow's is in
SQLite's rollback mode, where a reader keeps a commit waiting for a moment.
"""
