"""Tables in and out: points from a file, runs and probes from a study, and tables of a report."""

CONTROLS = ("random", "pixels")  # cells without training: the floors that every gain is measured from
