"""Benchmarks: this package beside the way a researcher would do the same in PyTorch, on the same machine."""
