"""From a YAML file to a table of cells: read, check, enumerate and price. Nothing here submits or trains."""
