"""The rows that a fit uses: numbers as people write them, variables, rows chosen and rows left out."""
