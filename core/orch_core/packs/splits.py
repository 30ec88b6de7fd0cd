"""Which split a folder, file or cell names, by the words that people use, and a refusal of other words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from orch_core.errors import OrchError

WORDS = {
    "train": ("train", "training", "trn", "trainset", "traindata"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "valset"),
    "test": ("test", "testing", "tst", "testset", "testdata", "evaluation", "eval"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}
_SHORT = {"tr": "train", "ts": "test", "va": "val", "vl": "val"}  # nnU-Net's imagesTr and imagesTs
_BESIDE = {"set", "data", "images", "image", "imgs", "img", "split", "folder", "files", "labels", "scans"}
KNOWN = "train (training, trn), val (valid, validation, dev) or test (testing, tst)"


def split_of_word(text: str) -> str:
    """The split that a word names, alone or beside neutral ones (`Test_set`, `val2017`), or nothing."""
    found = re.fullmatch(r"(?:images?|labels?)(Tr|Ts|Va|Vl)", text.strip())
    if found:
        return _SHORT[found.group(1).lower()]
    tokens = [token for token in _tokens(text) if token not in _BESIDE and not token.isdigit()]
    return _SPLITS.get(tokens[0], "") if len(tokens) == 1 else ""


def split_of_file(path: Path) -> str:
    """The split that a shard's name or its folder's names, or nothing.

    Examples are `imagenet1k-validation-00.tar` and `val/000.tar`. Raises OrchError for a name
    with words of two splits.
    """
    named = {_SPLITS[token]: token for token in _tokens(path.name) if token in _SPLITS}
    if len(named) > 1:
        message = f"{path.name} names two splits: {' and '.join(named.values())}"
        raise OrchError(message, hint="rename the file, so that one word says which split it is of")
    return next(iter(named), "") or split_of_word(path.parent.name)


def splits_of_files(root: Path, paths: Iterable[Path]) -> dict[Path, str]:
    """The split of every shard below `root`; raises OrchError if only some names have a split's word."""
    found = {path: split_of_file(path if path.parent != root else Path(path.name)) for path in paths}
    unknown = [path for path, split in found.items() if not split]
    if unknown and len(unknown) < len(found):
        message = f"{unknown[0].relative_to(root)} names no split, and other files of {root} do"
        raise OrchError(
            message, hint=f"a name has a word of its split: {KNOWN}; or leave the file out by `exclude`"
        )
    return found


def require_known(words: Iterable[str], where: str) -> None:
    """Raise OrchError, with the words, if some of them do not name a split."""
    unknown = sorted({word for word in words if not split_of_word(word)})
    if unknown:
        message = f"{where} has {', '.join(map(repr, unknown[:5]))}, which name no split"
        raise OrchError(message, hint=f"call the splits {KNOWN}, or leave the rest out by `exclude`")


def _tokens(text: str) -> list[str]:
    """Words of a name, in lower case: `Test_set` has two, `val2017` has `val` and a number."""
    parts = re.split(r"[^A-Za-z0-9]+", text.strip())
    return [token.lower() for part in parts for token in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", part)]
