"""One module for each form in which people keep images: folders of files, Parquet, shards, and DICOM or NIfTI slices."""
