"""Fitting one law to one table of points: options, usable rows, global search, intervals and outcome."""
