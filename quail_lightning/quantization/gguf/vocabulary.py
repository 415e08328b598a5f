"""A tokenizer as GGUF files hold it, where llama.cpp has one that cuts texts the same way."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quail_lightning.data.pre_tokenizers import ONE_DIGIT, THREE_DIGITS, WORDS
from quail_lightning.errors import InputError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens, by llama.cpp's numbers."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_PRE_TOKENIZERS: dict[tuple[str, ...], tuple[str, bool]] = {
    ("GPT-2's pattern",): ("gpt-2", False),
    ("digits", "GPT-2's pattern"): ("smollm", False),
    (WORDS % THREE_DIGITS, "bytes"): ("llama-bpe", True),
    (WORDS % ONE_DIGIT, "bytes"): ("qwen2", False),
}
"""How a byte-level tokenizer cuts a text → llama.cpp's name for that, and whether a piece that is a token is taken
without merging."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece's BPE).
        pre: how texts are cut before anything is merged.
        tokens: by id.
        types: likewise.
        merges: of byte-level BPE, in their order; empty otherwise.
        scores: of SentencePiece, by id: what is merged first has the highest; empty otherwise.
        special: ``bos``, ``eos``, … → id.
        adds: whether ``bos`` and ``eos`` are put around a text, and a ``space`` before it.
        template: of chats.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    scores: Sequence[float]
    special: Mapping[str, int]
    adds: Mapping[str, bool]
    template: Any

    def add_to(self, writer: Any) -> None:
        """Hand it to a ``gguf.GGUFWriter``."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.adds["bos"])
        writer.add_add_eos_token(self.adds["eos"])
        writer.add_add_space_prefix(self.adds["space"])
        if self.template:
            writer.add_chat_template(self.template)


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """A tokenizer's tokens, merges and habits.

    Args:
        tokenizer: of transformers.
        size: rows of the model's embedding; those that no token has are filled up.

    Raises:
        InputError: llama.cpp has no tokenizer that cuts texts the same way, or the model has fewer rows.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    model = described.get("model", {})
    if model.get("type") != "BPE" or any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise _unknown(f"{type(tokenizer).__name__} is not plain byte pair encoding")
    ids: dict[str, int] = tokenizer.get_vocab()
    if max(ids.values()) >= size:
        raise InputError(
            f"the tokenizer has a token {max(ids.values())}, and the model {size} rows in its embedding",
            remedy="Save the model with the tokenizer that it was trained with",
        )
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    steps = _steps(described)
    adds = _adds(tokenizer)
    if (found := _PRE_TOKENIZERS.get(steps)) is not None and found[1] == bool(model.get("ignore_merges")):
        kind, pre, scores = "gpt2", found[0], []
    elif model.get("byte_fallback") and _marks_spaces(described):
        added = {each.content for each in tokenizer.added_tokens_decoder.values()}
        pieces = {text: number for text, number in ids.items() if text not in added and not _BYTE.fullmatch(text)}
        kind, pre, scores = "llama", "default", _scores(pieces, merges, size)
        merges = []
    else:
        raise _unknown(f"it cuts by {' and '.join(steps) or 'no rule'}, which llama.cpp has no name for")
    tokens, types = _tokens(tokenizer, ids, size, model.get("unk_token") if kind == "llama" else None)
    template = getattr(tokenizer, "chat_template", None)
    return Vocabulary(kind, pre, tokens, types, merges, scores, _special(tokenizer), adds, template)


def _steps(described: Mapping[str, Any]) -> tuple[str, ...]:
    """How a text is cut: patterns, or a word for what has none."""
    normalizer = described.get("normalizer") or {}
    kinds = {each.get("type") for each in normalizer.get("normalizers", [normalizer])} - {None}
    cutter = described.get("pre_tokenizer") or {}
    steps = []
    for step in cutter.get("pretokenizers", [cutter]):
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space"):
            steps.append("GPT-2's pattern" if step.get("use_regex", True) else "bytes")
        elif kind == "Digits" and step.get("individual_digits"):
            steps.append("digits")
        elif kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            steps.append(next(iter(step["pattern"].values())))
        elif kind:
            steps.append(kind)
    # composed characters are the one thing that llama.cpp leaves to the text (Qwen's tokenizers ask for them)
    return (*sorted(kinds - {"NFC", "Sequence"}), *steps)


def _marks_spaces(described: Mapping[str, Any]) -> bool:
    """Whether spaces become U+2581, as SentencePiece has it, and nothing else is done to a text."""
    steps = set(_steps(described))
    return steps in ({"Prepend", "Replace"}, {"Replace"}, {"Metaspace"})


def _scores(pieces: Mapping[str, int], merges: Sequence[str], size: int) -> list[float]:
    """SentencePiece's scores: the piece that is merged first has the highest.

    Raises:
        InputError: a piece can be put together in a way that is no merge, which SentencePiece would use.
    """
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", ""), rank)
    listed = set(merges)
    for piece in pieces:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces and f"{left} {right}" not in listed:
                raise _unknown(f"{piece!r} is never merged from {left!r} and {right!r}, as SentencePiece would")
    scores = [-float(len(merges))] * size
    for piece, rank in first.items():
        scores[pieces[piece]] = -float(rank)
    return scores


def _tokens(tokenizer: Any, ids: Mapping[str, int], size: int, unknown: str | None) -> tuple[list[str], list[int]]:
    """Texts and types by id."""
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for text, number in ids.items():
        tokens[number], types[number] = text, NORMAL
        if unknown is not None and _BYTE.fullmatch(text):
            types[number] = BYTE
    for number, added in tokenizer.added_tokens_decoder.items():
        if added.lstrip or added.rstrip or added.single_word:
            raise _unknown(f"its token {added.content!r} takes the spaces around it or stands by itself alone")
        tokens[number], types[number] = added.content, CONTROL if added.special else USER_DEFINED
    if unknown is not None and unknown in ids:
        types[ids[unknown]] = UNKNOWN
    return tokens, types


def _special(tokenizer: Any) -> dict[str, int]:
    names = ("bos", "eos", "unk", "pad")
    found = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return {name: token for name, token in found.items() if token is not None}


def _adds(tokenizer: Any) -> dict[str, bool]:
    """What is put around a text, by trying it."""
    plain, whole = (tokenizer("a", add_special_tokens=special).input_ids for special in (False, True))
    first, last = ([tokenizer.bos_token_id], [tokenizer.eos_token_id])
    for before, after in (([], []), (first, []), ([], last), (first, last)):
        if whole == [*before, *plain, *after]:
            marked = tokenizer.convert_ids_to_tokens(plain)[0].startswith("▁")
            return {"bos": bool(before), "eos": bool(after), "space": marked}
    raise _unknown("it puts other tokens around a text than BOS and EOS")


def _unknown(why: str) -> InputError:
    return InputError(
        f"llama.cpp has no tokenizer that cuts texts as this model's does: {why}",
        allowed="byte-level BPE as of GPT-2, SmolLM, Llama 3 or Qwen 2, or SentencePiece's BPE as of Llama 2",
        remedy="Evaluate this precision here (`quail evaluate`), and deploy this model in another format "
        "(docs/quantizers.md)",
    )
