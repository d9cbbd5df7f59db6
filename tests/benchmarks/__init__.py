"""How fast it is, measured against other ways to the same answers: `python -m tests.benchmarks`."""
