"""What this program leaves on disk from which private text can be read back, recognised by its form."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from quail_lightning.storage.locks import lock_in


class Kind(NamedTuple):
    """One sort of folder that holds private text.

    Attributes:
        what: it holds, for a reader.
        folder: its name, as a pattern.
        files: names of the files that the program writes into it, relative to it.
        manifest: file that tells it from a folder of another program, and the keys of its JSON.
        keys: one of these sets is among them.
    """

    what: str
    folder: re.Pattern[str]
    files: re.Pattern[str]
    manifest: str
    keys: tuple[frozenset[str], ...]


_UNFINISHED = r"(\.[0-9a-f]{32}\.partial)?"
KINDS = {
    "reference-cache": Kind(
        "hidden states or logits of the texts: nearly every token can be read back",
        re.compile(r"[0-9a-f]{16}"),
        re.compile(r"(head|(forget|retain)-\d{5})\.safetensors|manifest\.json|\.[\w.\-]+\.partial|\.tmp\w+"),
        "manifest.json",
        (frozenset({"fingerprint", "origin"}),),
    ),
    "evaluations": Kind(
        "prompts, true texts and responses, word for word",
        re.compile(rf"\.?[0-9a-f]{{16}}{_UNFINISHED}"),
        re.compile(rf"(\.?(about|measures)\.json|\w+/\.?log\.json){_UNFINISHED}"),
        "about.json",
        (frozenset({"records_sha256"}), frozenset({"parts"})),
    ),
    "responses": Kind(
        "what the models said to prompts of the text, with the true texts",
        re.compile(r"(target|retrained|unlearned)-[\w.+\-]+|samples"),
        re.compile(r"\.?about\.json|\w+/\.?log\.json|events\.out\.tfevents\..+"),
        "about.json",
        (frozenset({"responses_of"}),),
    ),
    "training-checkpoints": Kind(
        "weights inside the training, which may still say the texts",
        re.compile(r"step-\d{8,}|\.step-\d{8,}\.(partial|removed)"),
        re.compile(
            r"(state|run|manifest|shards|process-\d+)\.json|tensors-\d{5}\.safetensors|\.metadata|\w+\.distcp|\.tmp\w+"
        ),
        "manifest.json",
        (frozenset({"format", "files"}),),
    ),
}


class Leftover(NamedTuple):
    """A folder that holds private text.

    Attributes:
        kind: key of ``KINDS``.
        folder: where it lies.
        files: those of it that this program wrote; no links.
        foreign: how many others lie there, which stay.
    """

    kind: str
    folder: Path
    files: tuple[Path, ...]
    foreign: int

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.lstat().st_size for path in self.files)

    @property
    def place(self) -> Path:
        """What a reader is told: a cache, or the folder of all evaluations or of a run's checkpoints."""
        if self.kind == "reference-cache":
            return self.folder
        return self.folder.parent.parent if self.folder.parent.name == "parts" else self.folder.parent

    @property
    def lock(self) -> Path:
        """What those hold who use it, see ``locks.hold``."""
        of_a_run = self.kind in ("training-checkpoints", "responses")
        return lock_in(self.folder.parent.parent) if of_a_run else self.place

    def remove(self) -> None:
        """Remove the files, and what folders are empty then."""
        for path in self.files:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in self.files} | {self.folder}, reverse=True):
            with suppress(OSError):  # not empty
                folder.rmdir()


def leftovers(folders: Iterable[Path], kinds: Iterable[str] = tuple(KINDS)) -> list[Leftover]:
    """Everything at or below some folders that text can be read back from; links are not followed.

    Args:
        folders: where to look.
        kinds: what to look for.
    """
    found = {}
    for root in folders:
        for folder, names, _ in os.walk(root):
            if left := _recognised(Path(folder), kinds):
                found[left.folder.resolve()] = left
                names.clear()
    return list(found.values())


def say_what_is_left(folders: Iterable[Path]) -> None:
    """One line that says where private text can still be read back from; nothing where there is none."""
    found = leftovers(folders)
    if not found:
        return
    places = {left.place: f"{left.place} ({KINDS[left.kind].what})" for left in found}
    named = " ".join(shlex.quote(str(place)) for place in places)
    print(
        f"The private text can still be read back from {'; '.join(places.values())}. The files are for your "
        f"account alone; to remove them: quail clean {named} --yes",
        flush=True,
    )


def _recognised(folder: Path, kinds: Iterable[str]) -> Leftover | None:
    """The folder as a leftover: by its name, and by its manifest or because nothing else lies in it."""
    for kind in kinds:
        known = KINDS[kind]
        if not known.folder.fullmatch(folder.name):
            continue
        files = list(_files(folder))
        own = [path for path in files if known.files.fullmatch(path.relative_to(folder).as_posix())]
        own = [path for path in own if not path.is_symlink()]
        if own and (len(own) == len(files) or _is_ours(folder / known.manifest, known)):
            return Leftover(kind, folder, tuple(own), len(files) - len(own))
    return None


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in (*names, *linked))


def _is_ours(manifest: Path, kind: Kind) -> bool:
    try:
        content: Any = None if manifest.is_symlink() else json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and any(keys <= content.keys() for keys in kind.keys)
