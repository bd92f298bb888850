"""The other sides of `benchmarks/training.py`."""
