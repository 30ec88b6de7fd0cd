"""Compute-optimal model and data size."""
