"""The study folder: the only code that knows a path inside it, and the readers and writers of its files."""
