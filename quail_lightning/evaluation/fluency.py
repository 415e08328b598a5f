"""Flu: n-gram entropy of long answers; a model that repeats itself scores low."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

NEW_TOKENS = 256  # of an answer
WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of the bigram's and the trigram's entropy, which are then averaged
WORD = re.compile(r"\w+|[^\w\s]")  # words and single punctuation marks


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """Shannon entropy of the n-grams' frequencies, in bits; 0 where there is none."""
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    if not counts:
        return 0.0
    shares = np.array(list(counts.values()), dtype=np.float64)
    shares /= shares.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0: no minus sign before a zero


def fluency(answer: str) -> float:
    """H₂/3 + 2·H₃/3 in bits (Zhang et al. 2018, with the weights of Meng et al. 2022 that RWKU uses).

    RWKU splits words by NLTK's Punkt tokenizer, which needs a download; words and punctuation marks are split by a
    pattern here.
    """
    words = WORD.findall(answer)
    return sum(weight * ngram_entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def fluency_prompt(instruction: str) -> str:
    """An instruction as RWKU puts it."""
    return f"Instruction: {instruction}\n"
