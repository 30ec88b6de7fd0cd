"""One module for each form in which people keep images: folders, Parquet, shards, DICOM or NIfTI slices."""
