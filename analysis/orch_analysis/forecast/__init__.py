"""Forecasts beyond the largest run that do not depend on one law being right."""
