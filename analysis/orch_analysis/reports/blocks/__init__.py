"""The tables, figures and sentences that the reports of a study and of a table of points share."""
