"""The precision that a set of cells can reach before it has run, and the choice of cells to add."""
