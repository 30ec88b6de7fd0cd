"""Tables in and out: points from a file, runs and probes from a study, and tables of a report."""
