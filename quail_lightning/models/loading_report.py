"""The library's report of what it loaded, read: a model that its checkpoint does not fill is refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from quail_lightning.errors import InputError

SHOWN = 3  # tensors named in a message
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a layer or an expert, within a name

WRAPPERS = {
    "_orig_mod.": "torch.compile puts it there: save model._orig_mod, or rename the tensors",
    "_fsdp_wrapped_module.": "FSDP puts it there: save the full state dict, or rename the tensors",
    "_checkpoint_wrapped_module.": "activation checkpointing puts it there: rename the tensors",
    "module.": "DDP and DeepSpeed put it there: save model.module, or rename the tensors",
}
"""What wrappers put into names → the remedy."""


HARMLESS = re.compile(r"\.(inv_freq|(self_)?att(entio)?n\.(masked_)?bias|(cos|sin)_cached|position_ids)$")
"""Buffers that earlier releases of the library stored (masks, rotary frequencies), which each model makes itself;
today's ignores them for some architectures only."""


def refuse_incomplete(
    name: str, report: Mapping[str, Collection[Any]], stored: Iterable[str] = (), base: str = ""
) -> None:
    """Refuse a checkpoint that does not fill its model.

    Args:
        name: of the checkpoint.
        report: of ``from_pretrained``: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
        stored: names in the files, before any renaming.
        base: prefix of the architecture's body (``model``, ``transformer``).

    Raises:
        InputError: naming the first few tensors, and the remedy where a prefix explains them.
    """
    missing = sorted(report["missing_keys"])
    unexpected = sorted(key for key in report["unexpected_keys"] if not HARMLESS.search(f".{key}"))
    mismatched = sorted((key, tuple(found), tuple(wanted)) for key, found, wanted in report["mismatched_keys"])
    parts = []
    if missing:
        parts.append(f"{some(missing)} missing")
    if unexpected:
        parts.append(f"{some(unexpected)} in the files but not in the architecture")
    if mismatched:
        shapes = [f"{key} (file {list(found)}, config {list(wanted)})" for key, found, wanted in mismatched]
        parts.append(f"of another shape than its config says: {some(shapes)}")
    if parts:
        raise not_whole(name, "; ".join(parts), _remedy([*unexpected, *stored], missing, base))


def gaps(names: Iterable[str]) -> list[str]:
    """Tensors that a layer or an expert lacks and its like have.

    Worked: experts.0.w1, experts.1.w1, experts.0.w2 → experts.1.w2.
    """
    numbers: dict[str, set[tuple[str, ...]]] = {}  # name with * for each number → the numbers
    for name in names:
        numbers.setdefault(NUMBER.sub("*", name), set()).add(tuple(NUMBER.findall(name)))
    missing = []
    for pattern, own in numbers.items():
        stem, _, _ = pattern.rpartition("*")
        depth = pattern.count("*")
        beside = [of for key, of in numbers.items() if key.startswith(stem) and key.count("*") == depth]
        for place in sorted(set().union(*beside) - own):
            missing.append(pattern.replace("*", "{}").format(*place))
    return missing


def unfilled(name: str, stored: Collection[str], parameters: Iterable[str], base: str, said: str) -> InputError:
    """The error of a checkpoint at which the library gives up before it reports: what its files lack, by name.

    Args:
        name: of the checkpoint.
        stored: names in its files; a quantized layer has several, below the layer's own.
        parameters: of its architecture.
        base: prefix of the architecture's body.
        said: by the library.
    """
    owners = {key.rpartition(".")[0] for key in stored}
    absent = [key for key in parameters if key.rpartition(".")[0] not in owners]
    if lacking := gaps(stored) or absent:
        return not_whole(name, f"{some(lacking)} missing", _remedy(list(stored), absent, base))
    return not_whole(name, f"tensors cannot be filled ({said})")


def not_whole(name: str, what: str, remedy: str | None = None) -> InputError:
    """The error of a checkpoint that is not whole."""
    default = "Copy or download it again, its config.json too; or save it anew by save_pretrained"
    return InputError(f"the checkpoint {name!r} is not whole: {what}", remedy=remedy or default)


def some(names: Collection[str]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(list(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _remedy(found: list[str], missing: list[str], base: str) -> str | None:
    """What explains the names, where a prefix does."""
    for wrapper, remedy in WRAPPERS.items():
        wrapped = [key for key in found if f".{wrapper}" in f".{key}"]
        if wrapped and not any(f".{wrapper}" in f".{key}" for key in missing):
            return f"Names hold the prefix {wrapper!r} ({wrapped[0]}); {remedy}"
    wanted = set(missing)
    for key in found:
        for dot in (place.end() for place in re.finditer(r"\.", key)):
            if key[dot:] in wanted:
                return f"Names have the additional prefix '{key[:dot]}' ({key}); rename the tensors"
        if f"{base}.{key}" in wanted:
            return f"Names lack the prefix '{base}.' ({key}); rename the tensors"
    return None
