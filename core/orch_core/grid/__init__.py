"""A YAML file to a table of cells: read, checked, enumerated and priced. Pure: nothing here submits or trains."""
