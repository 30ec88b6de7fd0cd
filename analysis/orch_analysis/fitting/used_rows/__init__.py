"""The rows that a fit uses: numbers as people write them, variables, the rows chosen and the rows left out."""
