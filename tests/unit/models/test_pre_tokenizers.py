import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from quail_lightning.models.pre_tokenizers import BY_NAME, name_of, steps_of


def described(cutter=None, normalizer=None, ignore_merges: bool = False) -> dict:
    built = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if cutter is not None:
        built.pre_tokenizer = cutter
    if normalizer is not None:
        built.normalizer = normalizer
    return json.loads(built.to_str())


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_read_by_a_name_is_written_by_one_that_splits_alike(name):
    way = BY_NAME[name]
    normalizer = way.normalizer() if way.normalizer else None
    found = name_of(described(way.splitter(), normalizer, way.whole_words_first))
    assert found == {"starcoder": "smollm", "refact": "smollm"}.get(name, name)
    assert name_of(described(way.splitter(), normalizer, not way.whole_words_first)) is None


def test_steps_are_those_of_the_tokenizer():
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "▁"), normalizers.NFC()])
    assert steps_of(described(gpt2, marks)) == ("Prepend '_'", "Replace String ' ' by '▁'", "GPT-2's pattern")
    assert steps_of(described(pre_tokenizers.ByteLevel(add_prefix_space=True))) == ("ByteLevel",)
    assert steps_of(described(pre_tokenizers.Split("12", "isolated"))) == ("String '12'",)
    assert steps_of(described(pre_tokenizers.Split("12", "removed"))) == ("Split",)
    assert steps_of(described()) == ()


def test_a_step_within_two_sequences_is_seen():
    deep = described(pre_tokenizers.ByteLevel(add_prefix_space=False))
    lower = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}
    deep["normalizer"] = {"type": "Sequence", "normalizers": [lower]}
    assert steps_of(json.loads(Tokenizer.from_str(json.dumps(deep)).to_str())) == ("Lowercase", "GPT-2's pattern")
    assert name_of(deep) is None
