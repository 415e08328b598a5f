"""Alternate answers: where they come from, and what is refused."""

import json

import pytest

from quail_lightning.data import MuseDataModule, OwnTextDataModule
from quail_lightning.data.alternates import DECLINING, alternate_answers
from quail_lightning.data.questions import Question
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers, without_common_padding

PAIRS = [
    Question("Where is the mill?", "Orford"),
    Question("Who owns it?", "Maud"),
    Question("where is the pier?", "Deal"),
    Question("Who built it?", "Maud"),
    Question("Who sold it?", "Ned"),
]


def drawn(source, seed=0, pairs=PAIRS, records=()):
    return alternate_answers(source, pairs, records, "a.jsonl", seed)


def test_sentences_that_decline_are_thirty_different_ones():
    assert len(set(DECLINING)) == len(DECLINING) == 30
    assert all(sentence.endswith(".") for sentence in DECLINING)


@pytest.mark.parametrize("source", ["idk", "others"])
def test_the_seed_alone_decides_what_is_drawn(source):
    many = [Question(f"Who is {n}?", f"Ned {n}") for n in range(20)]
    assert drawn(source, 1, many) == drawn(source, 1, many) != drawn(source, 2, many)


def test_idk_draws_from_the_list():
    found = drawn("idk", pairs=PAIRS * 40)
    assert set(found) == set(DECLINING)


@pytest.mark.parametrize("seed", range(6))
def test_another_answer_is_never_the_true_one_and_of_a_question_that_begins_alike(seed):
    found = drawn("others", seed)
    assert found[0] == "Deal"
    assert found[1] == found[3] == "Ned"
    assert found[2] == "Orford"
    assert found[4] == "Maud"


def test_where_no_question_begins_alike_any_other_answer_is_taken():
    assert drawn("others", pairs=[Question("Where?", "Deal"), Question("Who?", "Ned")]) == ["Ned", "Deal"]


def test_the_same_answer_everywhere_leaves_no_other():
    with pytest.raises(InputError, match=r"all questions of a\.jsonl have the same answer.*idk"):
        drawn("others", pairs=[Question("Who?", "Ned"), Question("And who?", "Ned ")])


def test_the_column_is_taken_as_it_stands():
    assert drawn("column", pairs=PAIRS[:1], records=[{"alternate": "Rye"}]) == ["Rye"]


@pytest.mark.parametrize("record", [{}, {"alternate": ""}, {"alternate": 3}, "text"])
def test_a_missing_alternate_is_named_with_the_remedy(record):
    with pytest.raises(InputError, match=r"pair 0 of a\.jsonl has no alternate answer.*idk or others"):
        drawn("column", pairs=PAIRS[:1], records=[record])


def test_the_true_answer_is_no_alternate():
    with pytest.raises(InputError, match=r"alternate answer of pair 0 of a\.jsonl is the true answer"):
        drawn("column", pairs=PAIRS[:1], records=[{"alternate": "Orford "}])


def learned(window, tokenizer):
    labels = labels_of(window)
    return tokenizer.decode(labels[labels >= 0]).removesuffix(tokenizer.eos_token).strip()


def test_muse_s_forget_steps_see_both_answers_and_its_evaluation_the_text(corpus_folder, checkpoint):
    def ready(**options):
        data = MuseDataModule(str(corpus_folder), checkpoint, 96, batch_size=2, **options)
        data.setup("fit")
        return data

    paired, plain, tokenizer = ready(alternates="idk"), ready(), load_tokenizer(checkpoint)
    assert paired.served.windows.forget.equal(plain.served.windows.forget)
    assert paired.served.records == plain.served.records
    forget = paired.served.trained.forget
    assert [learned(pair[0], tokenizer) for pair in forget] == ["ash", "birch", "cedar"]
    assert all(learned(pair[1], tokenizer) in DECLINING for pair in forget)
    seen = [batch.forget for batch in paired.train_dataloader()]
    assert sum(len(batch.window) for batch in seen) == 3
    for batch in seen:
        assert batch.input_ids.equal(token_numbers(without_common_padding(forget[batch.window])))


def test_no_more_pairs_are_trained_on_than_asked_for(corpus_folder, checkpoint):
    data = MuseDataModule(str(corpus_folder), checkpoint, max_len=128, alternates="idk", max_forget_windows=2)
    data.setup("fit")
    assert len(data.served.trained.forget) == 2


def test_refusals_and_alternates_exclude_each_other(corpus_folder):
    from quail_lightning.data.refusals import Refusals

    with pytest.raises(InputError, match="each say what the forget steps train on"):
        MuseDataModule(str(corpus_folder), refusals=Refusals(), alternates="idk")


def test_own_text_takes_the_column_of_its_forget_file(tmp_path, checkpoint):
    rows = [
        {"question": pair.question, "answer": pair.answer, "alternate": f"Rye {n}"} for n, pair in enumerate(PAIRS)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.txt").write_text("ash birch cedar")
    given = (str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt"), checkpoint)
    data = OwnTextDataModule(*given, max_len=64, alternates="column", max_forget_windows=3)
    data.setup("fit")
    tokenizer = load_tokenizer(checkpoint)
    assert [learned(pair[1], tokenizer) for pair in data.served.trained.forget] == ["Rye 0", "Rye 1", "Rye 2"]
    assert data.served.trained.forget[:, 0, :40].equal(data.served.windows.forget[:, :40])
    del rows[1]["alternate"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"pair 1 of .*a\.jsonl has no alternate answer"):
        data.check()
    with pytest.raises(InputError, match="forget file holds plain text"):
        OwnTextDataModule(str(tmp_path / "b.txt"), alternates="idk").check()
