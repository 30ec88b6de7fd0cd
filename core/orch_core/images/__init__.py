"""Images and labels of sources and tasks: MedMNIST's format, pack folders, and the subsets of cells."""
