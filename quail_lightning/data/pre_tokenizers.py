"""How byte-level BPE tokenizers split text before the merges, by llama.cpp's names (``tokenizer.ggml.pre``).

Each is the model's own in Hugging Face format; the patterns are public in the models' tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Words with one character before them, digits in groups of ``%s``, punctuation, line ends, spaces."""
THREE_DIGITS, ONE_DIGIT = "{1,3}", ""


@dataclass(frozen=True)
class PreTokenizer:
    """One way.

    Attributes:
        splitter: makes the library's pre-tokenizer.
        normalizer: makes its normalizer; None where there is none.
        whole_words_first: a piece that is a token stays one, whatever the merges would make of it.
    """

    splitter: Callable[[], Any]
    normalizer: Callable[[], Any] | None = None
    whole_words_first: bool = False


def _gpt2() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False)


def _single_digits() -> Any:
    from tokenizers.pre_tokenizers import Digits, Sequence

    return Sequence([Digits(individual_digits=True), _gpt2()])


def _pattern(digits: str) -> Callable[[], Any]:
    def make() -> Any:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

        split = Split(Regex(WORDS % digits), behavior="isolated")
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])

    return make


def _composed() -> Any:
    from tokenizers.normalizers import NFC

    return NFC()


_DIGITS = PreTokenizer(_single_digits)
BY_NAME = {
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "gpt-2": PreTokenizer(_gpt2),
    "llama-bpe": PreTokenizer(_pattern(THREE_DIGITS), whole_words_first=True),
    "qwen2": PreTokenizer(_pattern(ONE_DIGIT), normalizer=_composed),
}
"""llama.cpp's name → how."""
