"""The words of a scaling-law study: grids, cells, recipes, tasks, records and what they cost."""
