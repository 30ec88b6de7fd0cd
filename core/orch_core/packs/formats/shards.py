"""WebDataset shards (`.tar`, `.tar.gz`) as a source: members of one key are one sample."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from orch_core.packs.formats.folders import IMAGES
from orch_core.packs.gather import UNLABELLED, Item, Spec, Unit, group_of, printable

SHARDS = (".tar", ".tar.gz", ".tgz")
CLASS = ("cls", "cls.txt", "label", "label.txt")
"""Extensions of the member that holds the number of a sample's class; without it, `label` in its .json."""


def shard_items(unit: Unit, spec: Spec) -> Iterator[Item]:
    """The images of a shard; a shard that ends early has one more item, which names the fault."""
    path = Path(unit.paths[0])
    try:
        with tarfile.open(path, "r:*") as tar:
            for key, sample in _samples(tar):
                yield _item(f"{path.name}/{printable(key)}", sample, spec, unit.split)
            _check_end(tar)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        yield Item(name=path.name, problem=f"the shard ends early: {error}")


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError for an archive without zeros at its end: tarfile takes a cut header for the end."""
    file = cast("IO[bytes]", tar.fileobj)
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        message = "it lacks the mark of its end"
        raise tarfile.ReadError(message)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, sample = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile():
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if name != key and sample:
            yield key, sample
            sample = {}
        key = name
        file = tar.extractfile(member)
        sample[extension.lower()] = file.read() if file else b""
    if sample:
        yield key, sample


def _item(name: str, sample: Mapping[str, bytes], spec: Spec, split: str) -> Item:
    blob = next((sample[ext[1:]] for ext in IMAGES if ext[1:] in sample), None)
    if blob is None:
        return Item(name=name, problem=f"no image among {', '.join(sorted(sample))}")
    try:
        fields = json.loads(sample.get("json", b"{}"))
    except ValueError as error:
        return Item(name=name, problem=f"its .json cannot be read: {error}")
    fields = fields if isinstance(fields, dict) else {}
    label = _label(sample, fields, spec)
    try:
        number = None if label is None else int(label)
    except (ValueError, TypeError):
        shown = bytes(label) if isinstance(label, bytes) else label
        return Item(name=name, problem=f"its class is {shown!r}, not the number of a class"[:200])
    group = str(fields[spec.group]) if spec.group in fields else group_of(spec, name)
    known = number is not None and number >= 0
    return Item(
        name=name,
        blob=blob,
        group=group,
        split=split,
        labels=(number,) if number is not None and known else (),
        note="" if known or number is None else UNLABELLED,
    )


def _label(sample: Mapping[str, bytes], fields: Mapping[str, Any], spec: Spec) -> Any:
    """The class of a sample as it is written, None without one."""
    if spec.label:
        return sample.get(spec.label, fields.get(spec.label))
    written = next((sample[extension] for extension in CLASS if extension in sample), None)
    return fields.get("label") if written is None else written
