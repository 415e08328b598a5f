"""The tokenizer of a GGUF file, built from what the file says.

transformers' own converters leave out how text is split before the merges (``tokenizer.ggml.pre``), so that
some texts become other tokens than the model was trained on, and some give BOS in the place of EOS; see
docs/decisions.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quail_lightning.conversion.gguf_header import GgufHeader
from quail_lightning.errors import InputError
from quail_lightning.models.pre_tokenizers import BY_NAME
from quail_lightning.models.token_kinds import TokenKind
from quail_lightning.storage.readable import damaged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE_LEVEL, SENTENCE_PIECE = "gpt2", "llama"
"""llama.cpp's names of byte-level BPE, and of SentencePiece's BPE with scores in place of merges."""
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""The library's name of a special token → the file's key of its number."""
SWITCHES = ("add_bos_token", "add_eos_token", "add_space_prefix")
TEMPLATE = "tokenizer.chat_template"
SPACE = "▁"  # SentencePiece's space
FILLER = re.compile(r"\[PAD\d+\]")  # tokens that llama.cpp's converter invents up to the embedding's rows
REMEDY = "Name the original checkpoint in Hugging Face format, or a GGUF file that was made anew from it"


def check_tokenizer(header: GgufHeader) -> None:
    """See that a file holds a tokenizer that is built here, and that its parts fit together.

    Raises:
        InputError: there is none, of another kind, with an unknown way to split text, or it is damaged.
    """
    file, model, tokens = header.file, _get(header, "model"), _get(header, "tokens")
    if model is None or not tokens:
        raise InputError(f"{file} holds no tokenizer", remedy=REMEDY)
    if model not in (BYTE_LEVEL, SENTENCE_PIECE):
        raise InputError(
            f"the tokenizer of {file} is of a kind that is not read",
            given=f"tokenizer.ggml.model: {model}",
            allowed=f"{BYTE_LEVEL} (byte-level BPE), {SENTENCE_PIECE} (SentencePiece BPE)",
            remedy=REMEDY,
        )
    if model == BYTE_LEVEL and str(name := _get(header, "pre")) not in BY_NAME:
        raise InputError(
            f"{file} does not say how its tokenizer splits text before the merges, or names a way that is not "
            "known here",
            given=f"tokenizer.ggml.pre: {name}",
            allowed=", ".join(BY_NAME),
            remedy=REMEDY,
        )
    lists = {"merges": str} if model == BYTE_LEVEL else {"scores": float}
    for name, type_ in {"tokens": str, "token_type": int, **lists}.items():
        values = _get(header, name)
        if not isinstance(values, list) or not all(isinstance(value, type_) for value in values):
            raise damaged(file, f"its tokenizer has no sound list of {name}")
        if name != "merges" and len(values) != len(tokens):
            raise damaged(file, f"its tokenizer has {len(tokens):,} tokens and {len(values):,} of {name}")
    if model == BYTE_LEVEL and not all(" " in merge for merge in _get(header, "merges")):
        raise damaged(file, "its tokenizer has a merge of fewer than two parts")
    if len(set(tokens)) < len(tokens):
        raise damaged(file, "its tokenizer has one token twice")
    for key in SPECIAL.values():
        number = _get(header, key)
        if number is not None and not (type(number) is int and 0 <= number < len(tokens)):
            raise damaged(file, f"tokenizer.ggml.{key} is {str(number)[:40]} of {len(tokens):,} tokens")
    for key in SWITCHES:
        if type(_get(header, key, False)) is not bool:
            raise damaged(file, f"tokenizer.ggml.{key} is neither true nor false")
    if not isinstance(header.metadata.get(TEMPLATE, ""), str):
        raise damaged(file, f"{TEMPLATE} is no text")


def read_tokenizer(header: GgufHeader) -> Any:
    """The tokenizer of a checked file, as the library's class, with its special tokens and chat template."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    tokens, kinds = _get(header, "tokens"), _get(header, "token_type")
    is_byte_level = _get(header, "model") == BYTE_LEVEL
    built = _byte_level(header) if is_byte_level else _sentence_piece(header)
    own = {name: tokens[_get(header, key)] for name, key in SPECIAL.items() if _get(header, key) is not None}
    of_kind = {
        kind: [token for token, own_kind in zip(tokens, kinds, strict=True) if own_kind == kind]
        for kind in TokenKind
    }
    special = [*of_kind[TokenKind.CONTROL], *of_kind[TokenKind.UNKNOWN]]
    built.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    built.add_tokens([AddedToken(token, normalized=False) for token in of_kind[TokenKind.USER_DEFINED]])
    begins = _get(header, "add_bos_token", not is_byte_level or _get(header, "pre") == "llama-bpe")
    ends = _get(header, "add_eos_token", False)
    around = [own["bos_token"]] * begins, [own["eos_token"]] * ends
    if any(around):
        first, second = ([*around[0], text, *around[1]] for text in ("$A", "$B"))
        built.post_processor = processors.TemplateProcessing(
            single=first,
            pair=[*first, *(f"{part}:1" for part in second)],
            special_tokens=[(token, tokens.index(token)) for token in dict.fromkeys([*around[0], *around[1]])],
        )
    length = header.own("context_length")
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        clean_up_tokenization_spaces=False,  # else decoding eats spaces before punctuation
        **({"model_max_length": length} if length else {}),
        **({"chat_template": template} if (template := header.metadata.get(TEMPLATE)) else {}),
        **own,
    )


def _byte_level(header: GgufHeader) -> Tokenizer:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE

    chosen = BY_NAME[_get(header, "pre")]
    merges = [tuple(merge.split(" ", 1)) for merge in _get(header, "merges")]
    built = Tokenizer(BPE(_vocabulary(header), merges, ignore_merges=chosen.whole_words_first))
    if chosen.normalizer is not None:
        built.normalizer = chosen.normalizer()
    built.pre_tokenizer = chosen.splitter()
    built.decoder = decoders.ByteLevel()
    return built


def _sentence_piece(header: GgufHeader) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    vocabulary, scores = _vocabulary(header), _get(header, "scores")
    unknown = _get(header, "unknown_token_id")
    tokens = _get(header, "tokens")
    built = Tokenizer(
        BPE(
            vocabulary,
            _merges_by_score(tokens, _get(header, "token_type"), scores),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = _get(header, "add_space_prefix", True)
    before = [normalizers.Prepend(SPACE)] if prefix else []
    built.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    built.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return built


def _merges_by_score(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Merges that give what SentencePiece's choice of the best-scored pair gives: the best result first."""
    mergeable = {token: n for n, token in enumerate(tokens) if kinds[n] == TokenKind.NORMAL}
    found = []
    for token, number in mergeable.items():
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [pair for pair in halves if pair[0] in mergeable and pair[1] in mergeable]
        pairs.sort(key=lambda pair: (mergeable[pair[0]], mergeable[pair[1]]))
        found += [(-scores[number], number, pair) for pair in pairs]
    found.sort(key=lambda entry: entry[:2])  # stable: of one token's pairs the order stays
    return [pair for *_, pair in found]


def _vocabulary(header: GgufHeader) -> dict[str, int]:
    kinds = _get(header, "token_type")
    return {
        token: number
        for number, token in enumerate(_get(header, "tokens"))
        if kinds[number] != TokenKind.UNUSED or not FILLER.fullmatch(token)
    }


def _get(header: GgufHeader, key: str, default: Any = None) -> Any:
    return header.metadata.get(f"tokenizer.ggml.{key}", default)
