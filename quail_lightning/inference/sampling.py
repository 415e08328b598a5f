"""The next token: greedy, or drawn as the failure paper's published code draws it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Random decoding, repeatable: each prompt has a generator of its own, so batches do not matter.

    Attributes:
        temperature: divides the logits; the published code's 0.9.
        top_k: draw among the k likeliest; None: the checkpoint's own setting, else transformers' default of 50,
            which is what the published call leaves it at.
        top_p: draw among the likeliest that reach this probability; None: the checkpoint's own, else all.
        seed: of the prompts' generators. The published code sets none.
    """

    temperature: float = 0.9
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


def completed(sampling: Sampling, own: object) -> Sampling:
    """The sampling with what it leaves open taken from a checkpoint's generation config."""
    top_k = sampling.top_k if sampling.top_k is not None else getattr(own, "top_k", None)
    top_p = sampling.top_p if sampling.top_p is not None else getattr(own, "top_p", None)
    return Sampling(sampling.temperature, 50 if top_k is None else top_k, top_p or 1.0, sampling.seed)


def generators(sampling: Sampling, prompts: range | list[int]) -> list[torch.Generator]:
    """One generator a prompt, by its number."""
    # torch's CPU generator looks at the lower 32 bits of a seed only, so both numbers must go into these
    seeds = [(sampling.seed * 1_000_003 + number) % 2**32 for number in prompts]
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What is drawn from, in the order transformers applies it: temperature, top-k, top-p.

    Args:
        logits: [rows, vocabulary].
        sampling: completed.

    Returns:
        [rows, vocabulary] float32, rows summing to 1.
    """
    scaled = logits.float() / sampling.temperature
    if sampling.top_k:
        kept = scaled.topk(min(sampling.top_k, scaled.shape[-1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kept, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = scaled.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
        scaled = torch.full_like(scaled, -torch.inf).scatter(-1, order, ordered)
    return scaled.softmax(-1)


def draw(logits: Tensor, sampling: Sampling, rows: list[torch.Generator]) -> list[int]:
    """One token a row, each from its own generator."""
    chances = probabilities(logits, sampling).cpu()
    drawn = zip(chances, rows, strict=True)
    return [int(torch.multinomial(chance, 1, generator=generator)) for chance, generator in drawn]
