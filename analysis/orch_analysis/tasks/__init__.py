"""Slopes of downstream metrics per task, and the task properties they may depend on."""
