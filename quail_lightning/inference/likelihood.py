"""Token log-probabilities of texts and mean negative log-likelihoods of windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.head import Head
from quail_lightning.functional.masking import token_numbers
from quail_lightning.functional.token_likelihood import token_log_likelihood
from quail_lightning.functional.token_moments import standardized
from quail_lightning.inference.batching import likelihood_rows
from quail_lightning.inference.encoding import encode, positions
from quail_lightning.inference.modes import evaluation_mode
from quail_lightning.inference.shares import current_shares
from quail_lightning.inference.short_memory import Progress, explained_memory, in_batches
from quail_lightning.models.activations import check_head, language_decoder, output_head
from quail_lightning.models.sharded import inside, is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 512  # tokens whose logits are held in float32 at once: 66 MB at 32,000 words, 260 MB at 128,000
CPU_CHUNK, CPU_WORDS = 512, 1024  # likewise on a CPU, of so many words at a time: 2 MB, which stay in its caches


def label_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax(logits)[label] in float32, without a float32 copy of all the logits.

    Args:
        logits: [time, vocabulary], any floating dtype.
        labels: [time] token numbers.

    Returns:
        [time] nats, float32.
    """
    parts = [
        token_log_likelihood(logits[start : start + CHUNK], labels[start : start + CHUNK])
        for start in range(0, len(labels), CHUNK)
    ]
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)


def head_log_likelihoods(hidden: Tensor, labels: Tensor, head: Head, words: int) -> Tensor:
    """log softmax(head(hidden))[label] with the logits of only so many words at a time.

    Args:
        hidden: [tokens, width] final states.
        labels: [tokens].
        head: of the model.
        words: rows of the head taken at once; all of them or more: plainly.

    Returns:
        [tokens] nats, at least float32.
    """
    if words >= len(head.weight):
        return token_log_likelihood(head.logits(hidden), labels)
    total = picked = torch.empty(0)
    for start in range(0, len(head.weight), words):
        bias = None if head.bias is None else head.bias[start : start + words]
        logits = head._replace(weight=head.weight[start : start + words], bias=bias).logits(hidden)
        inside = (labels >= start) & (labels < start + words)
        found = logits.gather(1, (labels - start).clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        mass = logits.logsumexp(1)
        total = torch.logaddexp(total, mass) if start else mass
        picked = torch.where(inside, found, picked) if start else found
    return picked - total


def standardized_log_likelihoods(hidden: Tensor, labels: Tensor, head: Head, words: int) -> Tensor:
    """``head_log_likelihoods``, and beside each its z-score among all words; see ``standardized``.

    Returns:
        [tokens, 2] nats and standard deviations, at least float32.
    """

    def pieces() -> Iterator[Tensor]:
        for start in range(0, len(head.weight), words):
            bias = None if head.bias is None else head.bias[start : start + words]
            yield head._replace(weight=head.weight[start : start + words], bias=bias).logits(hidden)

    return torch.stack(standardized(pieces(), labels), dim=1)


def standardized_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """As ``standardized_log_likelihoods``, of logits [time, vocabulary] that are there already."""
    parts = [
        torch.stack(standardized([logits[start : start + CHUNK]], labels[start : start + CHUNK]), dim=1)
        for start in range(0, len(labels), CHUNK)
    ]
    return torch.cat(parts) if parts else logits.new_zeros(0, 2, dtype=torch.float32)


def is_likeliest(hidden: Tensor, labels: Tensor, head: Head, words: int) -> Tensor:
    """Whether each label is the one that greedy decoding would take, [tokens]: 1 or 0; arguments as above."""
    best, chosen = torch.empty(0), torch.empty(0)
    for start in range(0, len(head.weight), words):
        bias = None if head.bias is None else head.bias[start : start + words]
        logits = head._replace(weight=head.weight[start : start + words], bias=bias).logits(hidden)
        highest, place = logits.max(dim=1)
        better = highest > best if start else torch.ones_like(highest, dtype=torch.bool)
        best = torch.where(better, highest, best) if start else highest
        chosen = torch.where(better, place + start, chosen) if start else place
    return (chosen == labels).float()


def likeliest_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """As ``is_likeliest``, of logits [time, vocabulary] that are there already."""
    return (logits.argmax(-1) == labels).float()


class _Of(NamedTuple):
    """What is wanted of each token, from its logits or, where the head stands apart, from its hidden state."""

    logits: Callable[[Tensor, Tensor], Tensor]
    hidden: Callable[[Tensor, Tensor, Head, int], Tensor]


_LIKELIHOOD = _Of(label_log_probabilities, head_log_likelihoods)
_STANDARDIZED = _Of(standardized_labels, standardized_log_likelihoods)
_LIKELIEST = _Of(likeliest_labels, is_likeliest)


def token_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
    standardize: bool = False,
) -> list[Tensor]:
    """Log-probability of every token of each text, given BOS and the tokens before it.

    As in MUSE, the first token after BOS counts; under a tokenizer without BOS the first token has nothing
    before it and is left out.

    Args:
        model: a causal language model of transformers; its mode is restored afterwards.
        tokenizer: its own.
        texts: any length; what lies beyond ``max_length`` is cut off.
        batch_size: texts in one forward pass, sorted by length and padded on the right; None: as many as the
            free memory holds and the device has a use for.
        max_length: tokens of a text, BOS included; None or a larger value: the model's positions.
        progress: called after each batch with the texts done and their total.
        standardize: gives each token's z-score beside it, see ``standardized``.

    Returns:
        One CPU tensor a text, [tokens] nats, or [tokens, 2] nats and z-scores, float32, in the texts' order; empty
        for an empty text.
    """
    of = _STANDARDIZED if standardize else _LIKELIHOOD
    limits = [limit for limit in (max_length, positions(model.config)) if limit is not None]
    longest = min(limits) if limits else None
    return _each_row(model, [row[:longest] for row in encode(tokenizer, texts)], batch_size, progress, of)


def row_log_likelihoods(
    model: PreTrainedModel,
    encoded: Sequence[Sequence[int]],
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Log-probability of every token after the first of rows that are token numbers already.

    Args:
        model: a causal language model of transformers; its mode is restored afterwards.
        encoded: rows that fit the model's positions, of any lengths.
        batch_size: rows in one forward pass; as for ``token_log_likelihoods``.
        progress: likewise.

    Returns:
        One CPU tensor a row, [tokens − 1] nats, in the rows' order; empty for a row of fewer than two.
    """
    return _each_row(model, encoded, batch_size, progress, _LIKELIHOOD)


def likeliest_tokens(
    model: PreTrainedModel,
    encoded: Sequence[Sequence[int]],
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Whether every token after the first is the one that greedy decoding would take there: 1 or 0.

    Arguments and shapes as of ``row_log_likelihoods``.
    """
    return _each_row(model, encoded, batch_size, progress, _LIKELIEST)


def _each_row(
    model: PreTrainedModel,
    encoded: Sequence[Sequence[int]],
    batch_size: int | None,
    progress: Progress | None,
    of: _Of,
) -> list[Tensor]:
    """What is wanted of every token after the first; forward passes sorted by length, padded on the right."""
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    results = [torch.zeros((0, 2) if of is _STANDARDIZED else 0)] * len(encoded)
    shares = current_shares()
    fitting = batch_size or likelihood_rows(model, max(map(len, encoded), default=1))
    order = shares.own(order, shares.rows(batch_size, fitting, len(encoded)))
    with evaluation_mode(model):
        apart = is_head_apart(model)

        def run(chosen: list[int]) -> None:
            rows = [torch.tensor(encoded[index], dtype=torch.long) for index in chosen]
            if len(rows[0]) > 1:
                with explained_memory(len(rows), "texts", len(rows[0]), "shorter texts"):
                    found = _forward(model, rows, apart, of)
                for index, values in zip(chosen, found, strict=True):
                    results[index] = values

        def size(start: int) -> int:
            return batch_size or likelihood_rows(model, len(encoded[order[start]]))

        in_batches(order, size, run, batch_size is None and not is_sharded(model), progress)
    return shares.merged(order, results)


def window_nlls(
    model: PreTrainedModel, windows: Tensor, batch_size: int | None = None, progress: Progress | None = None
) -> Tensor:
    """Mean negative log-likelihood of each window's tokens after its first; masked ones do not count.

    Args:
        model: a causal language model of transformers; its mode is restored afterwards.
        windows: [n, time] token numbers, BOS first, masked as in ``functional.masking``.
        batch_size: windows in one forward pass; None: by free memory.
        progress: called after each batch with the windows done and their total.

    Returns:
        [n] nats per token, float64 on the CPU.

    Raises:
        InputError: the windows are not [n, time], shorter than two tokens or longer than the model's positions.
    """
    if problem := window_problem(windows, positions(model.config)):
        raise problem
    means = [0.0] * len(windows)
    shares = current_shares()
    size = shares.rows(batch_size, batch_size or likelihood_rows(model, windows.shape[1]), len(windows))
    order = shares.own(range(len(windows)), size)
    with evaluation_mode(model):
        apart = is_head_apart(model)

        def run(chosen: list[int]) -> None:
            with explained_memory(len(chosen), "windows", windows.shape[1], "data.max_len"):
                found = _forward(model, list(token_numbers(windows[chosen])), apart)
            for number, values in zip(chosen, found, strict=True):
                means[number] = -float(values[windows[number, 1:] >= 0].double().mean())

        in_batches(order, lambda _: size, run, batch_size is None and not is_sharded(model), progress)
    return torch.tensor(shares.merged(order, means), dtype=torch.float64)


def window_problem(windows: Tensor, limit: int | None) -> InputError | None:
    """Why these windows cannot be evaluated by a model of so many positions; None where they can."""
    if windows.ndim != 2 or windows.shape[1] < 2:
        return InputError("windows have the shape [n, time] with at least 2 tokens", given=tuple(windows.shape))
    if limit is not None and windows.shape[1] > limit:
        return InputError(
            f"the windows have {windows.shape[1]} tokens and the model {limit} positions",
            remedy=f"Cut windows of at most {limit} tokens",
        )
    return None


def is_head_apart(model: PreTrainedModel) -> bool:
    """Whether the head can be applied to a few tokens at a time, or only the model itself makes its logits."""
    try:
        check_head(model, partial(inside, model))
    except (InputError, AttributeError):  # AttributeError: an architecture whose parts are named otherwise
        return False
    return True


def _forward(model: PreTrainedModel, rows: Sequence[Tensor], apart: bool, of: _Of = _LIKELIHOOD) -> list[Tensor]:
    """What is wanted of the labels of the rows ([time] each), on the CPU."""
    return inside(model, lambda: _pass(model, rows, output_head(model) if apart else None, of))


def _pass(model: PreTrainedModel, rows: Sequence[Tensor], head: Head | None, of: _Of) -> list[Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(model.device)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    places = torch.arange(ids.shape[1], device=ids.device)
    mask = (places < lengths[:, None]).long()
    if head is None:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return [
            of.logits(logits[row, : len(tokens) - 1], ids[row, 1 : len(tokens)]).cpu()
            for row, tokens in enumerate(rows)
        ]
    final = language_decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    predicting = places[:-1] < lengths[:, None] - 1
    hidden, labels = final[:, :-1][predicting], ids[:, 1:][predicting]  # [tokens of all rows, ...]
    size, words = (CPU_CHUNK, CPU_WORDS) if ids.device.type == "cpu" else (CHUNK, len(head.weight))
    values = torch.cat(
        [
            of.hidden(hidden[start : start + size], labels[start : start + size], head, words)
            for start in range(0, len(labels), size)
        ]
    )
    return list(values.cpu().split([len(row) - 1 for row in rows]))
