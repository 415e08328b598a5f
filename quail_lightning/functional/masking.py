"""Token windows of which a part is read and not learned: prompts and padding.

One int64 tensor says both. An entry n ≥ 0 is token n, read and predicted; an entry ~n = −n − 1 is token n, read
only. So a mask is cut, spread, hashed and kept on disk together with its window, text windows (which mask nothing)
are plain token numbers, and a window that reaches a model undecoded fails at the embedding.

Causal models need no attention mask for padding on the right: no real position looks at what stands behind it.

Worked: tokens 5 6 7 8, the first two a prompt → −6 −7 7 8 → token numbers 5 6 7 8 and labels −100 −100 7 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quail_lightning.functional.token_likelihood import IGNORED


def masked(tokens: Tensor, learned: Tensor) -> Tensor:
    """Windows of token numbers [..., time], of which only ``learned`` (boolean, likewise) are predicted."""
    return torch.where(learned, tokens, ~tokens)


def token_numbers(windows: Tensor) -> Tensor:
    """What the model reads: [..., time]."""
    return torch.where(windows < 0, ~windows, windows)


def labels_of(windows: Tensor) -> Tensor:
    """What it is to predict: [..., time], ``IGNORED`` where a token is only read."""
    return windows.masked_fill(windows < 0, IGNORED)


def without_padding(window: Tensor) -> Tensor:
    """The token numbers of one window [time] up to its last learned one; behind that there is only padding."""
    learned = (window >= 0).nonzero()
    return token_numbers(window[: int(learned[-1]) + 1 if len(learned) else 0])


def without_common_padding(windows: Tensor) -> Tensor:
    """Windows [..., time] up to the last token that one of them learns; behind that all of them are padding."""
    learned = (windows >= 0).flatten(0, -2).any(0).nonzero()
    return windows[..., : int(learned[-1]) + 1] if len(learned) else windows


def side_by_side(sets: list[Tensor]) -> Tensor:
    """Windows of several sets [n_i, time_i] as one [Σ n_i, longest], padded on the right by masked tokens."""
    longest = max(windows.shape[1] for windows in sets)
    padding = ~0  # token 0, read only
    widened = [
        torch.nn.functional.pad(windows, (0, longest - windows.shape[1]), value=padding) for windows in sets
    ]
    return torch.cat(widened)
