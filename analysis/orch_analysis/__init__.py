"""Scaling laws: points in, certified fits, frontiers and reports out (numpy, scipy, polars; never torch)."""
