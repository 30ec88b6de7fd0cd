"""Scaling benefits: how they are defined, pooled over tasks, moderated by factors, and how much depends on a choice."""
