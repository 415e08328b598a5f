"""Why a folder's tokenizer could not be loaded, and what to do: the library has one message for many causes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError

WHOLE = "tokenizer.json"
PACKAGES = {  # of files that are no tokenizer.json
    "*.model": ("sentencepiece", "google.protobuf"),
    "*.tiktoken": ("tiktoken",),
    "tekken.json": ("mistral_common",),
}
FILES = (WHOLE, *PACKAGES, "vocab.json", "merges.txt", "vocab.txt")
_PIP = {"google.protobuf": "protobuf", "mistral_common": "mistral-common"}
_INSTALL = re.compile(r"(?:pip install|need to install|requires the|`)\s*`?([A-Za-z][\w\-]+)")


def refusal(name_or_path: str, error: Exception) -> InputError:
    """What to tell of a tokenizer that the library could not load.

    Args:
        name_or_path: as given.
        error: the library's.
    """
    said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". :")
    folder = Path(name_or_path)
    if not folder.is_dir():
        where = "it is a file" if folder.exists() else "there is no such folder, and the hub does not give it"
        return InputError(
            f"no tokenizer could be loaded from {name_or_path!r}: {where} ({said})",
            allowed=f"a folder with {WHOLE}, or a name on the hub that can be reached or was downloaded",
        )
    what = f"no tokenizer could be loaded from {name_or_path!r}"
    if code := _own_code(folder):
        return InputError(
            f"{what}: it is code of the checkpoint's own ({code}), which is never run here",
            remedy=f"Take a release with {WHOLE}, or run that code where you trust it and save its result by "
            "save_pretrained",
        )
    found = [path for pattern in FILES for path in sorted(folder.glob(pattern))]
    if not found:
        return InputError(
            f"{what}: the folder holds no tokenizer file",
            remedy=f"Copy {WHOLE} and tokenizer_config.json of the model that it was trained from into the folder",
        )
    if missing := _missing_packages(found, error):
        return InputError(
            f"{what}: {found[0].name} is read by {' and '.join(missing)}, not installed here",
            remedy=f"pip install {' '.join(missing)}; or take a release with {WHOLE}, which needs none",
        )
    names = " and ".join(path.name for path in found)
    return InputError(
        f"{what}: {names} cannot be understood ({said}): damaged, not whole, or newer than the library",
        remedy="Copy or download all its files again; if that does not help, pip install -U tokenizers",
    )


def _own_code(folder: Path) -> str:
    mapped = _options(folder).get("auto_map")
    named = mapped.get("AutoTokenizer") if isinstance(mapped, dict) else None
    if named is None or (folder / WHOLE).exists():
        return ""
    return ", ".join(filter(None, named)) if isinstance(named, list) else str(named)


def _missing_packages(found: Iterable[Path], error: Exception) -> list[str]:
    names = {path.name for path in found}
    if WHOLE not in names:
        for pattern, packages in PACKAGES.items():
            if any(path.match(pattern) for path in found):
                return [_PIP.get(package, package) for package in packages if not _is_installed(package)]
    if isinstance(error, ImportError):
        named = [error.name] if error.name else _INSTALL.findall(str(error))
        return named[:1] or [str(error).splitlines()[0]]
    return []


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of google.protobuf, where there is no google
        return False


def _options(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
