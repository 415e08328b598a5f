"""Two files of questions as windows and records."""

import json

import pytest

from quail_lightning.data import OwnQuestionsDataModule
from quail_lightning.data.protocol import UnlearningData
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import token_numbers


def rows(name, count, **further):
    return [{"question": f"Which {name} {n}?", "answer": f"elm {n}"} | further for n in range(count)]


def write(folder, name, records):
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "forget", [*rows("oak", 3, wrong=["fir", "yew", "ash"]), *rows("pine", 2, wrong="fir")])
    write(tmp_path, "retain", rows("maple", 8))
    return tmp_path


def module(folder, checkpoint=None, **options):
    files = (str(folder / f"{name}.jsonl") for name in ("forget", "retain"))
    return OwnQuestionsDataModule(*files, tokenizer=checkpoint, **{"max_len": 64} | options)


def learned(tokenizer, window):
    return tokenizer.decode(token_numbers(window)[window >= 0], skip_special_tokens=True).strip()


def test_each_question_is_a_window_of_which_the_answer_is_learned(folder, checkpoint):
    data, tokenizer = module(folder, checkpoint), load_tokenizer(checkpoint)
    data.check()
    data.setup("fit")
    assert isinstance(data, UnlearningData)
    assert [learned(tokenizer, row) for row in data.served.windows.forget] == [f"elm {n}" for n in (0, 1, 2, 0, 1)]
    assert len(data.served.windows.retain) == 8
    whole = module(folder, checkpoint, loss_on="all").cut_windows(tokenizer).forget
    assert "Which oak 0?" in learned(tokenizer, whole[0])
    assert data.answer_options == {"loss_on": "answer", "chat": "auto"}
    fewer = module(folder, checkpoint, max_forget_windows=2, max_retain_windows=3).cut_windows(tokenizer)
    assert [len(windows) for windows in fewer] == [2, 3]


def test_the_evaluation_asks_both_files_and_says_which_measures_are_of_how_many(folder):
    records = module(folder).records_alone()
    assert records.answers is not None
    assert records.answers.choices
    assert {name: len(asked) for name, asked in records.answers.sets.items()} == {"forget": 5, "retain": 8}
    guessing = (3 / 4 + 2 / 2) / 5  # three questions of four answers, two of two
    assert records.note == (
        "Own questions. Forget: 5 questions, 5 with wrong answers (truth ratio and accuracy are of those, and "
        f"guessing gives {guessing:.2f}). Retain: 8 questions, none with wrong answers, so no truth ratio and no "
        "accuracy."
    )


def test_alternates_are_trained_on_beside_the_true_answers(folder, checkpoint):
    data = module(folder, checkpoint, alternates="idk", max_forget_windows=3, max_len=96)
    data.setup("fit")
    assert data.served.trained.forget.shape[:2] == (3, 2)
    assert data.served.windows.forget.ndim == 2
    with pytest.raises(InputError, match=r"pair 0 of \S+forget\.jsonl has no alternate answer"):
        module(folder, alternates="column").check()
    write(folder, "forget", rows("oak", 3, alternate="I would rather not say."))
    module(folder, alternates="column").check()


def test_what_stands_in_both_files_or_alone_is_refused_by_every_way_in(folder, checkpoint):
    write(folder, "retain", [*rows("maple", 2), {"question": "which oak 1?", "answer": "yew"}])
    data = module(folder, checkpoint)
    for enter in (data.check, data.training_documents, data.records_alone, lambda: data.setup("fit")):
        with pytest.raises(InputError, match=r"retain\.jsonl, line 3: .*forget\.jsonl, line 2 to be forgotten"):
            enter()
    write(folder, "retain", rows("maple", 1))
    with pytest.raises(InputError, match=r"retain\.jsonl holds a single question"):
        data.check()
    data.check(with_records=False)  # a model can be trained on it


@pytest.mark.parametrize(("option", "value"), [("loss_on", "some"), ("chat", "maybe"), ("alternates", "mine")])
def test_unknown_options_are_refused(folder, option, value):
    with pytest.raises(InputError, match=f"data.{option}"):
        module(folder, **{option: value})


def test_a_pair_longer_than_a_window_is_refused_before_training(folder, checkpoint):
    with pytest.raises(InputError, match="more than a window holds"):
        module(folder, checkpoint, max_len=4).setup("fit")
