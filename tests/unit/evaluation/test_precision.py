"""Names of precisions: attacks, then a quantizer."""

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.evaluation.checkpoints import load_precisions
from quail_lightning.evaluation.precision import attacked_names, named_precision, widest


def test_a_name_is_a_chain_of_attacks_and_at_most_one_quantizer_at_its_end():
    chain = named_precision("prune30+relearn100+nf4")
    assert (chain.name, chain.config, chain.chain) == ("prune30+relearn100+nf4", "nf4", ("prune30", "relearn100"))
    bare = named_precision("prune30", sixteen_bits="fp32")
    assert (bare.config, bare.chain, bare.dtype) == ("fp32", ("prune30",), torch.float32)
    assert named_precision("nf4").chain == ()


def test_what_was_attacked_is_not_the_model_that_others_are_compared_with():
    assert not named_precision("prune30").is_plain
    asked = [named_precision("prune30+fp32"), named_precision("bf16")]
    assert widest(asked).name == "bf16"
    assert attacked_names(asked) == {"prune30+fp32"}


def test_attacks_are_made_on_the_widest_model():
    names = ["fp32", "prune30", "prune30+nf4", "nf4"]
    found = {each.name: each for each in load_precisions(names, "paper")}
    assert found["prune30"].config == "fp32"
    assert {each.dtype for each in found.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nf4+prune30", r"nf4 quantizes, and stands before the end of a chain.*got 'nf4\+prune30'.*prune30\+nf4"),
        ("bf16+prune30", "bf16 quantizes, and stands before"),
        ("prune30+nf4+relearn100", "nf4 quantizes, and stands before"),
        ("prune33+nf4", r"no such attack or precision: 'prune33'.*prune30.*nf4"),
        ("prune30+nf44", "no such attack or precision: 'nf44'"),
        ("prune30+", "no such attack or precision: ''"),
        ("+nf4", "no such attack or precision: ''"),
        ("relearn10", r"no such attack or precision: 'relearn10'.*Did you mean relearn1\d0\?"),
        ("nf44", r"no such precision; got 'nf44'.*Did you mean nf4\?"),
    ],
)
def test_what_names_no_chain_is_refused(name, words):
    with pytest.raises(InputError, match=words):
        named_precision(name)
