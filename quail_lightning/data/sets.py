"""The forget and the retain set: their documents, their windows, the loaders over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from quail_lightning.batch import ForgetRetainBatch
from quail_lightning.data.forget_retain import EveryWindow, ForgetRetainWindows, Schedule, StepSampler, step_loader
from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError


class Documents(NamedTuple):
    """The documents to forget and to keep."""

    forget: list[str]
    retain: list[str]
    dropped: int  # retain documents left out because they also stand in the forget set or in a part before


class Windows(NamedTuple):
    """Token windows, [windows, max_len] each; a set that the data lacks has none."""

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

    Repeats within a part are the corpus' own and stay.
    """
    seen, retain, dropped = set(forget), list[str](), 0
    for documents in retain_parts:
        new = [document for document in documents if document not in seen]
        dropped += len(documents) - len(new)
        retain += new
        seen.update(new)
    return Documents(list(forget), retain, dropped)


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


def training_loader(
    windows: Windows, batch_size: int, schedule: Schedule, seed: int
) -> DataLoader[ForgetRetainBatch]:
    """The steps of an epoch in the schedule's order."""
    sampler = StepSampler(len(windows.forget), len(windows.retain), batch_size, schedule, seed)
    return step_loader(ForgetRetainWindows(*windows), sampler)


def window_loader(windows: Windows, batch_size: int) -> DataLoader[ForgetRetainBatch]:
    """Every window once: the forget set, then the retain set."""
    sampler = EveryWindow(len(windows.forget), len(windows.retain), batch_size)
    return step_loader(ForgetRetainWindows(*windows), sampler)
