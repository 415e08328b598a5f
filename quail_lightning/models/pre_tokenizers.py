"""How tokenizers split text before the merges, and llama.cpp's names for it (``tokenizer.ggml.pre``).

Each is the model's own in Hugging Face format; the patterns are public in the models' tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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

    def steps(self) -> tuple[str, ...]:
        """See ``steps_of``."""
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        built = Tokenizer(BPE())
        built.pre_tokenizer = self.splitter()
        return steps_of(json.loads(built.to_str()))


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


def name_of(described: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how a byte-level tokenizer splits text; None where it has none.

    Args:
        described: the tokenizer as its library writes it (``Tokenizer.to_str``).
    """
    whole_words_first, steps = bool(described["model"].get("ignore_merges")), steps_of(described)
    for name, way in BY_NAME.items():
        if way.whole_words_first == whole_words_first and way.steps() == steps:
            return name
    return None


def steps_of(described: Mapping[str, Any]) -> tuple[str, ...]:
    """What a tokenizer does to a text before the merges, one after another and in words.

    Composing characters (NFC) is left out: the one thing that llama.cpp leaves to the text (Qwen's ask for it).

    Args:
        described: as of ``name_of``.
    """
    changes = _flat(described.get("normalizer"), "normalizers")
    cuts = _flat(described.get("pre_tokenizer"), "pretokenizers")
    return (*(_change(step) for step in changes if step["type"] != "NFC"), *map(_cut, cuts))


def _flat(step: Mapping[str, Any] | None, parts: str) -> list[Mapping[str, Any]]:
    """The steps of a sequence, however deep they lie in it."""
    if step is None:
        return []
    return [each for part in step[parts] for each in _flat(part, parts)] if step["type"] == "Sequence" else [step]


def _change(step: Mapping[str, Any]) -> str:
    if step["type"] == "Prepend":
        return f"Prepend {step['prepend']!r}"
    if step["type"] == "Replace":
        return f"Replace {_pattern_of(step)} by {step['content']!r}"
    return str(step["type"])


def _cut(step: Mapping[str, Any]) -> str:
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "GPT-2's pattern" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return _pattern_of(step)
    if kind == "Metaspace" and not step.get("split", True):
        return f"Metaspace {step['replacement']!r} put before: {step.get('prepend_scheme', 'always')}"
    return str(kind)


def _pattern_of(step: Mapping[str, Any]) -> str:
    """``String`` or ``Regex``, and what it looks for."""
    ((kind, sought),) = step["pattern"].items()
    return f"{kind} {sought!r}"
