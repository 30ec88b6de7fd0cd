"""Scaling benefits: their definitions, means over tasks, moderation by factors, and dependence on choices."""
