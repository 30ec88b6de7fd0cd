"""What a set of cells can estimate before it has run, and which cells to add."""
