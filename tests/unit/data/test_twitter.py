"""The DataModule over labelled tweets."""

import json

import pytest

from quail_lightning.data import InventedTweets, TwitterDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError

FORGET = [("ash birch cedar elm fir hazel", 1), ("", 0), ("maple oak pine rowan willow yew", 0), ("yew", 1)]
RETAIN = [("oak ash yew elm larch fir", 0), ("ash birch cedar elm fir hazel", 1), ("fir hazel yew oak oak oak", 1)]
HOLDOUT = [("elm elm elm oak oak oak", 0), ("", 1)]


@pytest.fixture
def folder(tmp_path):
    for name, rows in (("forget", FORGET), ("retain1", RETAIN), ("retain2", HOLDOUT)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def module(folder, checkpoint, **options):
    return TwitterDataModule(str(folder), tokenizer=checkpoint, **({"max_len": 24, "batch_size": 2} | options))


def test_documents_carry_their_class_and_a_retain_tweet_of_the_forget_split_is_dropped(folder, checkpoint):
    documents = module(folder, checkpoint).training_documents()
    assert documents.forget == [
        "ash birch cedar elm fir hazel\nLabel: misinformation",
        "maple oak pine rowan willow yew\nLabel: factual",
        "yew\nLabel: misinformation",
    ]
    assert documents.retain == [
        "oak ash yew elm larch fir\nLabel: factual",
        "fir hazel yew oak oak oak\nLabel: misinformation",
    ]
    assert documents.dropped == 1


def test_rounds_repeat_every_document_and_do_not_depend_on_the_runs_seed(folder, checkpoint):
    once = module(folder, checkpoint, with_labels=False).training_documents()
    thrice = module(folder, checkpoint, with_labels=False, rounds=3).training_documents()
    again = module(folder, checkpoint, with_labels=False, rounds=3, seed=7).training_documents()
    assert once.forget == ["ash birch cedar elm fir hazel", "maple oak pine rowan willow yew", "yew"]
    assert sorted(thrice.forget) == sorted(once.forget * 3)
    assert thrice == again


def test_records_halve_the_tweets_ask_for_their_class_and_say_what_was_left_out(folder, checkpoint):
    data = module(folder, checkpoint)
    data.setup("fit")
    records = data.served.records
    tokenizer = load_tokenizer(checkpoint)
    assert [record.prompt + record.truth for record in records.verbatim] == [FORGET[0][0], FORGET[2][0]]
    for record in records.verbatim:
        parts = (record.prompt, record.truth)
        halves = [len(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in parts]
        assert abs(halves[0] - halves[1]) <= 1
        assert record.stops == ("\nLabel:",)
    assert records.forget_labels.prompts[1] == "maple oak pine rowan willow yew\nLabel:"
    assert records.forget_labels.labels == (1, 0, 1)
    assert records.forget_labels.verbalizers == (" factual", " misinformation")
    assert records.retain_labels.labels == (0, 1)
    assert records.membership.holdout == ("elm elm elm oak oak oak",)
    assert "2 empty rows were left out, and 1 tweets of fewer than 4 tokens" in records.note


def test_without_a_holdout_membership_is_left_out_and_said_so(folder, checkpoint):
    data = module(folder, checkpoint, holdout=None)
    data.setup("fit")
    assert data.served.records.membership is None
    assert "Membership leak is left out" in data.served.records.note


def test_training_alone_does_not_read_the_holdout(folder, checkpoint):
    (folder / "retain2.jsonl").unlink()
    module(folder, checkpoint).check(with_records=False)
    with pytest.raises(InputError, match="'retain2' is missing"):
        module(folder, checkpoint).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounds": 0}, "rounds must be at least 1; got 0"),
        ({"max_len": 1}, "max_len must be at least 2"),
        ({"verbalizers": ("x", "x")}, "two different words"),
    ],
)
def test_senseless_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        module("corpus", "tokenizer", **options)


def test_a_retain_split_that_is_the_forget_split_is_refused(folder, checkpoint):
    with pytest.raises(InputError, match="no retain tweet is left"):
        module(folder, checkpoint, retain=("forget",)).check()


def test_the_invented_set_is_written_when_it_is_asked_for(tmp_path, checkpoint):
    invented = InventedTweets(forget=3, retain=3, holdout=2, empty=1)
    data = module(tmp_path / "made", checkpoint, invented=invented)
    data.setup("fit")
    assert len(data.served.records.forget_labels.labels) == 3
    assert (tmp_path / "made/retain2.jsonl").is_file()
