"""Wherever a checkpoint is named, a GGUF file may be: the name becomes the folder of its conversion.

That happens where names enter a command, in two steps: ``sources_of`` reads headers, cheaply, with the other
checks; ``located`` converts. All that lies below sees folders.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quail_lightning.conversion.deployed import described_deployed, noted_in
from quail_lightning.conversion.described import described_grid, type_counts
from quail_lightning.conversion.gguf_conversion import check_room, convert_gguf, is_converted
from quail_lightning.conversion.gguf_header import GgufHeader, read_header
from quail_lightning.conversion.gguf_refusals import check_convertible
from quail_lightning.models.adapters import base_in
from quail_lightning.storage.gguf_files import SMOLLM2, converted_folder, gguf_file
from quail_lightning.terminal import is_first_rank

_told: set[Path] = set()  # folders that this process said a name stands for


@dataclass(frozen=True)
class GgufSource:
    """A name that means a GGUF file.

    Attributes:
        name: as it was given.
        header: of the file, which is convertible.
        folder: where its conversion lies, or will lie.
    """

    name: str
    header: GgufHeader
    folder: Path

    def convert(self) -> str:
        """Convert it where that was not done yet, and say what the name stands for.

        Raises:
            InputError: see ``convert_gguf``.
        """
        convert_gguf(self.header, self.folder)
        if is_first_rank() and self.folder not in _told:
            _told.add(self.folder)
            told = f"{self.name} is read as {self.folder}, converted from {self.header.file}."
            noted = noted_in(self.header)
            more = described_grid(type_counts(self.header)) if noted is None else described_deployed(noted)
            print(" ".join(filter(None, [told, more])), file=sys.stderr, flush=True)
        return str(self.folder)


def sources_of(names: Iterable[str | None]) -> dict[str, GgufSource]:
    """Those of some checkpoints' names that mean a GGUF file, and adapters' bases that do; nothing is converted.

    Raises:
        InputError: see ``gguf_file``, ``read_header``, ``check_convertible`` and ``check_room``.
    """
    found = {}
    for name in dict.fromkeys(filter(None, names)):
        if name == SMOLLM2 and Path(name).is_dir() and Path(name) not in _told and is_first_rank():
            _told.add(Path(name))
            print(f"{name} is the folder of that name here, not the package's model.", file=sys.stderr, flush=True)
        meant = base_in(name) or name
        if (file := gguf_file(meant)) is None:
            continue
        header = read_header(file)
        check_convertible(header)
        source = GgufSource(meant, header, converted_folder(file))
        if not is_converted(file, source.folder):
            check_room(header, source.folder)
        found[name] = source
    return found


def located(names: Iterable[str]) -> list[str]:
    """The folders, or names on the hub, that some checkpoints' names mean; what is a GGUF file is converted.

    Raises:
        InputError: see ``sources_of``, which checks all headers before the first conversion, and ``GgufSource``.
    """
    wanted = list(names)
    sources = sources_of(wanted)
    folders = {name: source.convert() for name, source in sources.items()}
    # of an adapter whose base was converted, the adapter is still what is named
    return [folders[name] if name in folders and sources[name].name == name else name for name in wanted]
