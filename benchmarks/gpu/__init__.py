"""Checks and times the Triton kernels on a GPU: ``python -m benchmarks.gpu --help``."""
