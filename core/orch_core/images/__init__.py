"""Images and labels as sources and tasks: files in MedMNIST's format, pack folders, and the subsets that cells see."""
