"""The door to seaborn and matplotlib: every figure of a report, drawn from tables and slopes."""
