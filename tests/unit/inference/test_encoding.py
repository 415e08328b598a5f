from __future__ import annotations

from typing import Any

from quail_lightning.inference.encoding import decode, encode, positions


def test_bos_stands_before_each_text_and_nothing_after_it(tokenizer: Any) -> None:
    rows = encode(tokenizer, ["hi", ""])
    assert rows[0][0] == 0
    assert len(rows[0]) == 3
    assert rows[1] == [0]


def test_decoding_leaves_special_tokens_out(tokenizer: Any) -> None:
    assert decode(tokenizer, [*encode(tokenizer, ["naïve text"])[0], 1]) == "naïve text"


def test_positions_are_the_models_limit(model: Any) -> None:
    assert positions(model.config) == 256
