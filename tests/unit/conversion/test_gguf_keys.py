"""Keys without which the library takes its own defaults, or with values that it stumbles over."""

import time

import pytest
from small_gguf import numbers, write_llama

from quail_lightning.conversion.gguf_conversion import convert_gguf
from quail_lightning.conversion.gguf_header import read_header
from quail_lightning.conversion.gguf_refusals import check_convertible
from quail_lightning.errors import InputError

pytest.importorskip("gguf")
OPTIONAL = {"attention.head_count_kv", "rope.dimension_count", "rope.freq_base", "vocab_size"}


@pytest.mark.parametrize("key", sorted(numbers().keys() - OPTIONAL))
def test_a_key_for_which_the_library_would_take_its_default_must_be_there(tmp_path, key):
    write_llama(tmp_path / "a.gguf", own={key: None})
    with pytest.raises(InputError, match=f"a.gguf is damaged: it does not say llama.{key}"):
        check_convertible(read_header(tmp_path / "a.gguf"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("block_count", value) for value in ("x", 2.5, True, 0, [2, 2])),
        *(("attention.head_count", value) for value in ("x", 0, [4.0], ["x"])),
        ("attention.head_count_kv", "x"),
        ("context_length", "x"),
        ("context_length", [128]),
        ("attention.key_length", "x"),
        ("attention.layer_norm_rms_epsilon", float("nan")),
        ("rope.freq_base", "x"),
        ("rope.freq_base", [1.0]),
        ("vocab_size", "x"),
    ],
)
def test_values_of_another_kind_are_refused_by_the_name_of_their_key(tmp_path, key, value):
    write_llama(tmp_path / "a.gguf", own={key: value})
    with pytest.raises(InputError, match=rf"llama.{key} cannot be "):
        check_convertible(read_header(tmp_path / "a.gguf"))


@pytest.mark.parametrize("count", [1, 3, 1_000_000])
def test_as_many_blocks_are_said_as_there_are(tmp_path, count):
    write_llama(tmp_path / "a.gguf", own={"block_count": count})
    start = time.monotonic()
    with pytest.raises(InputError, match=f"block_count {count:,} and holds tensors of 2 blocks"):
        check_convertible(read_header(tmp_path / "a.gguf"))
    assert time.monotonic() - start < 10, "the library would build them all"


@pytest.mark.parametrize(
    "changes",
    [{"own": {"attention.head_count": [4, 4]}}, {"own": {"rope.freq_base": "x"}}, {"own": {"block_count": "x"}}],
)
def test_what_the_library_stumbles_over_is_told_of_the_file(tmp_path, changes):
    write_llama(tmp_path / "a.gguf", **changes)
    with pytest.raises(InputError, match=r"a.gguf is damaged: transformers makes no model of its keys \(\w+Error"):
        convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    assert not (tmp_path / "model").exists()
