"""Which tokenizers llama.cpp has, and what a file says of them; that it cuts alike is in test_llama_cpp.py."""

import copy
import json
import re

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from quail_lightning.errors import InputError
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.quantization.gguf.quantizer import Gguf
from quail_lightning.quantization.gguf.vocabulary import vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama_token_type in llama.cpp


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"])
def test_a_tokenizer_is_known_by_how_it_cuts(name, tokenizers_by_name):
    tokenizer = tokenizers_by_name[name]
    found = vocabulary(tokenizer, 448)
    assert (found.model, found.pre) == ("llama" if name == "default" else "gpt2", name)
    assert len(found.tokens) == len(found.types) == 448
    assert found.adds == {"bos": name != "gpt-2", "eos": False, "space": name == "default"}
    assert found.special["bos"] == tokenizer.bos_token_id
    for text, number in tokenizer.get_vocab().items():
        assert found.tokens[number] == text
    assert found.types[tokenizer.eos_token_id] == CONTROL
    assert found.types[-1] == UNUSED
    assert found.tokens[-1] == "[PAD447]"


def test_byte_level_merges_keep_their_order(tokenizers_by_name):
    found = vocabulary(tokenizers_by_name["qwen2"], 448)
    described = json.loads(tokenizers_by_name["qwen2"].backend_tokenizer.to_str())["model"]["merges"]
    assert list(found.merges) == [" ".join(pair) for pair in described]
    assert found.scores == []
    assert found.types[found.tokens.index("<tool>")] == USER_DEFINED
    assert found.types[found.tokens.index("Ġ")] == NORMAL


def test_sentencepiece_s_scores_fall_with_the_merges(tokenizers_by_name):
    found = vocabulary(tokenizers_by_name["default"], 448)
    scores = dict(zip(found.tokens, found.scores, strict=True))
    assert found.merges == []
    assert scores["▁t"] == 0.0
    assert scores["▁t"] > scores["he"] > scores["▁the"] > scores["▁an"] > scores["e"]
    assert found.types[0] == UNKNOWN
    assert found.types[3] == BYTE


def test_bytes_are_bytes_also_without_an_unknown_token(tokenizers_by_name):
    """llama.cpp writes ``<0x41>`` out letter by letter where its type is another."""
    found = vocabulary(with_model(tokenizers_by_name["default"], unk_token=None), 448)
    assert found.types[3:259] == [BYTE] * 256
    assert found.tokens[3] == "<0x00>"
    named = with_model(tokenizers_by_name["default"], unk_token=None)
    named.unk_token = "<unk>"
    assert vocabulary(named, 448).types[0] == UNKNOWN


def test_several_chat_templates_are_written_by_name(tokenizers_by_name, tmp_path):
    gguf = pytest.importorskip("gguf")
    tokenizer = copy.deepcopy(tokenizers_by_name["smollm"])
    tokenizer.chat_template = {"default": "{{ plain }}", "tool_use": "{{ tools }}"}
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    vocabulary(tokenizer, 448).add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == "{{ plain }}"
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ tools }}"
    assert fields["tokenizer.chat_templates"].contents() == ["tool_use"]


def changed(tokenizer: PreTrainedTokenizerFast, **parts) -> PreTrainedTokenizerFast:
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for name, value in parts.items():
        setattr(own, name, value)
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>")


def with_model(tokenizer: PreTrainedTokenizerFast, **options) -> PreTrainedTokenizerFast:
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["model"] |= options
    own = Tokenizer.from_str(json.dumps(described))
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>")


def test_tokenizers_that_llama_cpp_does_not_have_are_refused(tokenizers_by_name):
    smol, qwen, pieces = (tokenizers_by_name[name] for name in ("smollm", "qwen2", "default"))
    special = [(text, smol.get_vocab()[text]) for text in ("<s>", "<tool>")]
    around = processors.TemplateProcessing(single="<s> $A <tool>", special_tokens=special)
    spaced = copy.deepcopy(smol)
    spaced.add_tokens([AddedToken("<wide>", lstrip=True)])
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]

    def marked(*parts, cutter=None) -> PreTrainedTokenizerFast:
        return changed(pieces, normalizer=normalizers.Sequence(list(parts)), pre_tokenizer=cutter)

    refused = {
        "it cuts by": train_tokenizer(["some text"], 300),
        "it cuts by .*Whitespace": changed(smol, pre_tokenizer=pre_tokenizers.Whitespace()),
        "it cuts by Lowercase and": changed(smol, normalizer=normalizers.Lowercase()),
        "GPT-2's pattern, which": with_model(smol, ignore_merges=True),
        "other tokens around a text": changed(smol, post_processor=around),
        "takes the spaces around it": spaced,
        "is never merged from": with_model(
            pieces, merges=json.loads(pieces.backend_tokenizer.to_str())["model"]["merges"][1:]
        ),
        "is not plain byte pair": with_model(qwen, dropout=0.1),
        "Replace String 'b' by 'a', which": marked(*marks, normalizers.Replace("b", "a")),
        "Replace String ' ' by '_', which": marked(normalizers.Replace(" ", "_")),
        "Prepend 'x' and": marked(normalizers.Prepend("x"), marks[1]),
        "Metaspace 'x'": marked(cutter=pre_tokenizers.Metaspace("x", split=False)),
        # llama.cpp merges over the space, as in the piece "he▁"
        "by Metaspace, which": marked(cutter=pre_tokenizers.Metaspace(split=True)),
    }
    for why, tokenizer in refused.items():
        with pytest.raises(InputError, match=rf"cuts texts as this model's does.*{why}.*Allowed: byte-level BPE"):
            vocabulary(tokenizer, 512)


def test_composed_characters_are_left_to_the_text_as_llama_cpp_does_for_qwen(tokenizers_by_name):
    assert vocabulary(changed(tokenizers_by_name["qwen2"], normalizer=normalizers.NFC()), 448).pre == "qwen2"


def test_a_model_with_fewer_rows_than_tokens_is_refused(tokenizers_by_name):
    with pytest.raises(InputError, match=r"has a token \d+, and the model 128 rows"):
        vocabulary(tokenizers_by_name["qwen2"], 128)


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        ("never", r"^$"),
        (
            "always",
            r"^this tokenizer puts a space before a text unless it begins with one, and llama.cpp in any case$",
        ),
        ("first", "and before what follows a special token as well$"),
    ],
)
def test_texts_in_which_llama_cpp_finds_other_spaces_are_told(scheme, told, tokenizers_by_name, wide_model):
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    pieces = tokenizers_by_name["default"]
    cutter = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer = changed(pieces, normalizer=normalizers.Sequence([]), pre_tokenizer=cutter)
    assert re.search(told, vocabulary(tokenizer, 448).remark)
    assert re.search(told, Gguf("q4_0").check_file(wide_model(), tokenizer))
    assert vocabulary(pieces, 448).remark == ""
