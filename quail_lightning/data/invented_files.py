"""The files of an invented corpus, written into a folder once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from quail_lightning.errors import InputError


def ensure_files(folder: Path, files: Mapping[str, bytes], what: str, given: object) -> None:
    """Write files into a folder unless it holds just these already; whole or not at all.

    Several processes may do so at once.

    Args:
        folder: where to; its parents are made.
        files: name → content.
        what: the corpus is called in errors.
        given: its options, for errors.

    Raises:
        InputError: the folder holds something else, or a file of it was changed.
    """
    if not folder.exists() or not any(folder.iterdir()):
        try:
            _write(folder, files)
            return
        except OSError:
            if not folder.is_dir() or not any(folder.iterdir()):
                raise  # otherwise another process was faster
    for name, content in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            raise InputError(
                f"{folder} does not hold {what}: {folder / name} is missing or differs",
                given=given,
                remedy="Remove the folder to have it written anew, or name another one",
            )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "corpus"
        whole.mkdir()
        for name, content in files.items():
            (whole / name).write_bytes(content)
        if folder.exists():
            folder.rmdir()  # not every system renames onto an empty folder
        os.rename(whole, folder)
