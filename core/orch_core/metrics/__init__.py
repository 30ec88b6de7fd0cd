"""Metrics of predictions on a task, with numpy alone: a probe computes them, and a comparison of encoders does again."""
