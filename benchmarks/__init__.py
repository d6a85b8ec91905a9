"""Measurements, run from a checkout: `python -m benchmarks.train_step --help`. Ratios count, absolute times do not."""
