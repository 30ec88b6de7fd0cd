"""Packs: any number of images as a few large files, in the order in which subsets nest.

A pack folder holds

- `manifest.json`: format version, fingerprints, facts, and the hash of every other file
- `packs/00000.pack` ...: the images, raw uint8 or as they were encoded, after a header of 64 bytes
- `table.bin`: 32 bytes an image, mapped into memory: where it lies, its size, label, modality
- `orders.bin`: the rows of every modality in the order that it would have by itself, mapped into memory
- `index.parquet`: a row an image, in the same order: hash, rank, split, source,
  modality, group, shape, labels
- `names.parquet`: where every image came from; `left-out.csv`: what could not be used, and why

Rows stand in this order: the train split for pretraining, in the order of
                          `orch_core.images.subset.stratified_order`, so that
a data size is a prefix; then training images that are also in val or test, or whose
group is; then val; then test.

Modules: `pixels` (decode, and why an image is bad), `layout` (the files), `gather` (sources to
         sorted runs), `sources` and
`slices` (what a source is), `arrange` (runs to the final order), `write` (packs,
table, index), `read`, `facts`.
"""
