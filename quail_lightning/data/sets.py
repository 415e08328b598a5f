"""The forget and the retain set: their documents, their windows, the loaders over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from quail_lightning.data.overlap import comparable, overlapping
from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError


class Documents(NamedTuple):
    """The documents to forget and to keep."""

    forget: list[str]
    retain: list[str]
    dropped: int  # retain documents left out because they also stand in the forget set or in a part before
    within: int = 0  # of the dropped ones, those that stand within a longer forget document
    holding: int = 0  # retain documents that were kept and hold a whole forget document


class Windows(NamedTuple):
    """Token windows, [windows, time] each; a set that the data lacks has none.

    Tokens that are read and not learned are masked as in ``functional.masking``. What the forget steps train on
    may be [windows, 2, time], true and alternate answers.
    """

    forget: Tensor
    retain: Tensor


def check_sizes(
    max_len: int,
    batch_size: int,
    max_forget_windows: int | None,
    max_retain_windows: int | None,
    validation_windows: int = 0,
) -> None:
    """Refuse sizes that leave nothing.

    Raises:
        InputError: naming the option.
    """
    smallest = {"max_len": 2, "batch_size": 1, "max_forget_windows": 1, "max_retain_windows": 1}
    smallest["validation_windows"] = 0
    given = (max_len, batch_size, max_forget_windows, max_retain_windows, validation_windows)
    for (name, least), value in zip(smallest.items(), given, strict=True):
        if value is not None and value < least:
            raise InputError(f"data.{name} must be at least {least}", given=value)


def disjoint_documents(forget: Sequence[str], retain_parts: Iterable[Sequence[str]]) -> Documents:
    """Both sets; no retain document also stands in the forget set or in a part before.

    Neither white space nor the encoding of a letter hides one, see ``comparable``. A retain document that stands
    within a longer forget document is left out too; one that holds a whole forget document stays, and is counted.
    Repeats within a part are the corpus' own and stay.
    """
    found = _disjoint(tuple(forget), tuple(tuple(part) for part in retain_parts))
    return found._replace(forget=list(found.forget), retain=list(found.retain))


@lru_cache(maxsize=2)  # a run asks several times: to check the files, to tell models apart, to cut windows
def _disjoint(forget: tuple[str, ...], retain_parts: tuple[tuple[str, ...], ...]) -> Documents:
    seen = {comparable(document) for document in forget}
    parts = [[(document, comparable(document)) for document in part] for part in retain_parts]
    shorter = overlapping((key for part in parts for _, key in part), seen).standing - seen
    within = sum(key in shorter for part in parts for _, key in part)
    forgotten, retain, dropped = set(seen), list[tuple[str, str]](), 0
    for part in parts:
        new = [(document, key) for document, key in part if key not in seen and key not in shorter]
        dropped += len(part) - len(new)
        retain += new
        seen.update(key for _, key in new)
    longer = overlapping(forgotten, (key for _, key in retain)).holding
    holding = sum(key in longer for _, key in retain)
    return Documents(list(forget), [document for document, _ in retain], dropped, within, holding)


def say_overlap(documents: Documents, name: str = "retain") -> None:
    """Print how many documents of the second set also stand in those before it."""
    if documents.dropped:
        within = f" ({documents.within} of them within a longer document)" if documents.within else ""
        rank_zero_info(
            f"{name}: {documents.dropped} documents left out that also stand in the sets before it{within}"
        )
    if documents.holding:
        rank_zero_info(
            f"{name}: {documents.holding} documents were kept that hold a whole document of the sets before it; "
            "take it out of them"
        )


def cut_sets(
    documents: Documents,
    tokenizer: Any,
    max_len: int,
    max_forget_windows: int | None = None,
    max_retain_windows: int | None = None,
) -> Windows:
    """The windows of both sets under ``tokenizer``, the first so many of each; see ``token_windows``."""
    forget = token_windows(documents.forget, tokenizer, max_len)[:max_forget_windows]
    if not documents.retain:
        return Windows(forget, torch.zeros(0, max_len, dtype=torch.int64))
    return Windows(forget, token_windows(documents.retain, tokenizer, max_len)[:max_retain_windows])
