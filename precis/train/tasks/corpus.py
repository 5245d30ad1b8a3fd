"""Text files as bytes, split by file into what is trained on and what is held out."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# One file in ten is held out, or the last tenth of the text where there is only one file.
HELD_OUT = 10

# What is not the library itself: others' packages, and tests, which are mostly data.
NOT_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
)


@dataclass(frozen=True)
class Corpus:
    """Bytes to learn from and bytes to be judged on.

    Attributes:
        train: [bytes] uint8.
        held_out: [bytes] uint8, of other files.
        facts: What was read and how it was split, for a record.
    """

    train: np.ndarray
    held_out: np.ndarray
    facts: dict[str, Any]


def read_corpus(patterns: tuple[str, ...] | None, max_bytes: int) -> Corpus:
    """The text of the files that `patterns` match, or of the standard library.

    Files are taken in the order of a hash of their names, until there are `max_bytes`: what is
    read, and what is held out of it, depends on the names alone.

    Raises:
        ValueError: No file matches, or there is too little text.
    """
    if patterns is None:
        root = Path(sysconfig.get_path("stdlib"))
        names = list(_library(root))
        source = f"the standard library of Python {platform.python_version()}"
    else:
        root = Path()
        names = sorted({name for p in patterns for name in glob.glob(p, recursive=True)})
        names = [name for name in names if os.path.isfile(name)]
        source = ", ".join(patterns)
    if not names:
        raise ValueError(f"no file matches {source} (relative globs start at {Path.cwd()})")
    texts = _read(root, sorted(names, key=_digest), max_bytes)
    train, held_out, split = _split(texts)
    facts = {"source": source, "split": split, **_facts("train", train), **_facts("eval", held_out)}
    return Corpus(_array(train), _array(held_out), facts)


def _library(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - NOT_LIBRARY)
        for file in sorted(files):
            # What the build writes down of its machine is no source.
            if file.endswith(".py") and not file.startswith("_sysconfigdata"):
                yield (Path(folder) / file).relative_to(root).as_posix()


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _read(root: Path, names: list[str], max_bytes: int) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    left = max_bytes
    for name in names:
        if left <= 0:
            break
        texts[name] = (root / name).read_bytes()[:left]
        left -= len(texts[name])
    return texts


def _split(texts: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes], str]:
    """What is trained on, what is held out, and how they were told apart."""
    names = list(texts)
    if len(names) == 1:
        (name,) = names
        cut = len(texts[name]) * (HELD_OUT - 1) // HELD_OUT
        return {name: texts[name][:cut]}, {name: texts[name][cut:]}, "the end of the one file"
    # In the order of their hashes already, so that the first of them are any of them.
    count = max(1, len(names) // HELD_OUT)
    held_out = {name: texts[name] for name in names[:count]}
    return {name: texts[name] for name in names[count:]}, held_out, "by file"


def _facts(part: str, texts: dict[str, bytes]) -> dict[str, Any]:
    everything = b"".join(texts.values())
    return {
        f"{part}_files": len(texts),
        f"{part}_bytes": len(everything),
        f"{part}_names_sha256": _digest("\n".join(texts)),
        f"{part}_bytes_sha256": hashlib.sha256(everything).hexdigest(),
    }


def _array(texts: dict[str, bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(texts.values()), np.uint8)
