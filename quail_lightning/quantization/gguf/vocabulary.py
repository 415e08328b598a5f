"""A tokenizer as GGUF files hold it, where llama.cpp has one that cuts texts the same way."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.models.pre_tokenizers import name_of, steps_of
from quail_lightning.models.token_kinds import TokenKind

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_MARK = "Replace String ' ' by '▁'"
_FIRST_SPACE = "this tokenizer puts a space before a text unless it begins with one, and llama.cpp in any case"
_MARKS_SPACES = {
    ("Prepend '▁'", _MARK): "",
    (_MARK,): "",
    ("Metaspace '▁' put before: never",): "",
    ("Metaspace '▁' put before: always",): _FIRST_SPACE,
    ("Metaspace '▁' put before: first",): f"{_FIRST_SPACE}, and before what follows a special token as well",
}
"""Steps that turn spaces into U+2581, as SentencePiece does, and change nothing else → in which texts llama.cpp
does otherwise, as its own tokenizer shows."""


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
        template: of chats; several as a list of ``name`` and ``template``.
        remark: in which texts llama.cpp finds other tokens; empty: in none that is known.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    scores: Sequence[float]
    special: Mapping[str, int]
    adds: Mapping[str, bool]
    template: str | Sequence[Mapping[str, str]] | None
    remark: str

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
    steps = steps_of(described)
    adds = _adds(tokenizer)
    if (name := name_of(described)) is not None:
        kind, pre, scores = "gpt2", name, []
    elif model.get("byte_fallback") and steps in _MARKS_SPACES:
        added = {each.content for each in tokenizer.added_tokens_decoder.values()}
        pieces = {text: number for text, number in ids.items() if text not in added and not _BYTE.fullmatch(text)}
        kind, pre, scores = "llama", "default", _scores(pieces, merges, size)
        merges = []
    else:
        raise _unknown(f"it cuts by {' and '.join(steps) or 'no rule'}, which llama.cpp has no name for")
    tokens, types = _tokens(tokenizer, ids, size, kind == "llama")
    if kind == "llama" and (unknown := model.get("unk_token") or tokenizer.unk_token) in ids:
        types[ids[unknown]] = TokenKind.UNKNOWN
    remark, template = _MARKS_SPACES.get(steps, ""), _template(tokenizer)
    return Vocabulary(kind, pre, tokens, types, merges, scores, _special(tokenizer), adds, template, remark)


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


def _tokens(tokenizer: Any, ids: Mapping[str, int], size: int, has_bytes: bool) -> tuple[list[str], list[int]]:
    """Texts and types by id."""
    tokens, types = [f"[PAD{number}]" for number in range(size)], [int(TokenKind.UNUSED)] * size
    for text, number in ids.items():
        is_byte = has_bytes and _BYTE.fullmatch(text)
        tokens[number], types[number] = text, TokenKind.BYTE if is_byte else TokenKind.NORMAL
    for number, added in tokenizer.added_tokens_decoder.items():
        if added.lstrip or added.rstrip or added.single_word:
            raise _unknown(f"its token {added.content!r} takes the spaces around it or stands by itself alone")
        kind = TokenKind.CONTROL if added.special else TokenKind.USER_DEFINED
        tokens[number], types[number] = added.content, kind
    return tokens, types


def _template(tokenizer: Any) -> str | list[dict[str, str]] | None:
    """Of chats, as the gguf package takes it."""
    found: str | dict[str, str] | None = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        return [{"name": name, "template": template} for name, template in found.items()]
    return found


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
