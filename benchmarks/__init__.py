"""What Penstock costs beside its alternatives: `python -m benchmarks.feed`."""
