"""A text of any length → its tokens, in pieces, with progress, and once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from quail_lightning.run.processes import current_processes
from quail_lightning.terminal import Bar

PIECE = 200_000  # characters that are tokenized at once: under a second
SHARED = 2_000  # characters that two pieces have in common
AGREED = 16  # tokens before and after the seam that must be the same in both
KEPT = 4  # texts whose tokens are remembered: forget, retain, holdout and one of the evaluation

_known: dict[str, Tensor] = {}  # digest of text and tokenizer → tokens, of long texts alone


class _Piece(NamedTuple):
    ids: NDArray[np.int64]
    starts: NDArray[np.int64]  # of each token, in characters of the whole text


def token_ids(text: str, tokenizer: Any) -> Tensor:
    """The tokens of a text, without special tokens.

    A tokenizer is given a long text in pieces that overlap. Two pieces are joined inside of what they share, where
    ``AGREED`` tokens before and after are the same in both: what a tokenizer makes of a place does not depend on
    what stands so far away. Where no such place is found the text is tokenized as a whole, without progress.
    The tokens of the last few long texts are remembered: target, retrained model and training read the same.

    Args:
        text: any length.
        tokenizer: a transformers tokenizer; pieces need a fast one, which knows where its tokens stand.

    Returns:
        [tokens] int64.
    """
    if len(text) <= 2 * PIECE or not getattr(tokenizer, "is_fast", False):
        return _whole(text, tokenizer)
    described = tokenizer.backend_tokenizer.to_str()
    if _weighs_the_whole(json.loads(described)):
        return _whole(text, tokenizer)
    parts = (text.encode(), described.encode())
    key = "".join(hashlib.sha256(part).hexdigest() for part in parts)
    if key not in _known:
        tokens = _joined(text, tokenizer)
        while len(_known) >= KEPT:
            del _known[next(iter(_known))]
        _known[key] = tokens
    return _known[key].clone()


def _weighs_the_whole(described: Mapping[str, Any]) -> bool:
    """Whether what a tokenizer makes of a place depends on what stands far away.

    A Unigram model that is not given single words takes the likeliest way through the whole text: of two ways that
    are equally likely, the one that the rounding of everything before them decides for.
    """
    splits = json.dumps(described.get("pre_tokenizer"))
    apart = any(sign in splits for sign in ('"split": true', '"Whitespace', '"Split"', '"ByteLevel"'))
    return described["model"]["type"] == "Unigram" and not apart


def _whole(text: str, tokenizer: Any) -> Tensor:
    # verbose=False: the warning about texts longer than the model does not apply, they are cut later
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(encoded, dtype=torch.int64)


def _joined(text: str, tokenizer: Any) -> Tensor:
    done: list[NDArray[np.int64]] = []
    piece, first = _piece(text, 0, tokenizer), 0  # the first token of the piece that is not joined yet
    hidden = current_processes().rank != 0
    with Bar(total=len(text), desc="tokens", unit="char", unit_scale=True, disable=hidden) as bar:
        for start in range(PIECE, len(text) - SHARED, PIECE):
            bar.update(PIECE)
            following = _piece(text, start, tokenizer)
            seam = _seam(piece, following, start)
            if seam is None:
                rank_zero_info(
                    "a long text has no place to cut it at: it is tokenized as a whole, without progress"
                )
                return _whole(text, tokenizer)
            done.append(piece.ids[first : seam[0]])
            piece, first = following, seam[1]
    return torch.from_numpy(np.concatenate([*done, piece.ids[first:]]))


def _piece(text: str, start: int, tokenizer: Any) -> _Piece:
    encoded = tokenizer(
        text[start : start + PIECE + SHARED],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    starts = np.fromiter((begin for begin, _ in encoded["offset_mapping"]), np.int64) + start
    return _Piece(np.asarray(encoded["input_ids"], dtype=np.int64), starts)


def _seam(before: _Piece, after: _Piece, start: int) -> tuple[int, int] | None:
    """Where both pieces have the same tokens: the seam's token in the one and in the other.

    Args:
        before: ends at ``start + SHARED``.
        after: begins at ``start``.
        start: in characters of the whole text.
    """
    # by characters from the middle half of what they share: the ends are tokenized without their neighbours
    low, high = np.searchsorted(before.starts, [start + SHARED // 4, start + 3 * SHARED // 4])
    for one in range(max(int(low), AGREED), min(int(high), len(before.ids) - AGREED)):
        if before.starts[one] == before.starts[one - 1]:
            continue  # inside of a character
        other = int(np.searchsorted(after.starts, before.starts[one]))
        if other >= AGREED and all(
            np.array_equal(mine[one - AGREED : one + AGREED], theirs[other - AGREED : other + AGREED])
            for mine, theirs in zip(before, after, strict=True)
        ):
            return one, other
    return None
