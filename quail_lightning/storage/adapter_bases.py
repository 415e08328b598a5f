"""Where the base lies that an adapter's folder names; model and tokenizer of an adapter are found by one rule."""

from __future__ import annotations

from pathlib import Path

from quail_lightning.errors import InputError
from quail_lightning.storage.gguf_files import ENDING, converted_folder, gguf_file


def is_place(path: Path) -> bool:
    """Whether a base can lie there: a folder, or a GGUF file."""
    return path.is_dir() or (path.suffix.lower() == ENDING and path.is_file())


def base_named(folder: Path, named: str) -> str:
    """The base as a name that holds where the user stands: a folder, a GGUF file, or anything else as it is named.

    Args:
        folder: of the adapter; a base may be named from there.
        named: ``base_model_name_or_path`` of its config.
    """
    places = [path for path in (Path(named), folder / named) if is_place(path)]
    return str(places[0]) if places else named


def converted_base(folder: Path, base: str) -> str:
    """The base, or the conversion of one that is a GGUF file, which was made where the adapter was named.

    Args:
        folder: of the adapter.
        base: of ``base_named``.

    Raises:
        InputError: it is not converted yet; or see ``gguf_file``.
    """
    if (file := gguf_file(base)) is None:
        return base
    if not (converted := converted_folder(file)).is_dir():
        raise InputError(
            f"{folder} is an adapter, and its base {base} is a GGUF file that is not converted yet",
            remedy=f"Convert it first: quail convert {base}",
        )
    return str(converted)
