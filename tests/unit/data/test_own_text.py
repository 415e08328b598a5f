"""A user's own files as windows and records."""

import json

import pytest

from quail_lightning.data import OwnTextDataModule
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.data.validation_windows import validation_windows
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.models.tiny import train_tokenizer

TIDES = [f"Tide table {n}: high water at {n} past noon, low water at dusk, as the pilot told." for n in range(20)]
BEANS = [
    f"Garden note {n}: water the {n}th row of beans at dawn, and again before it gets dark." for n in range(20)
]


@pytest.fixture
def folder(tmp_path):
    made = train_tokenizer([*TIDES, *BEANS], 300)
    made.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    made.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "forget.txt").write_text("\n\n".join(TIDES))
    (tmp_path / "retain.txt").write_text("\n\n".join(BEANS))
    return tmp_path


def data(folder, forget="forget.txt", retain="retain.txt", **options):
    if holdout := options.pop("holdout", None):
        options["holdout"] = str(folder / holdout)
    given = {"max_len": 40} | options
    return OwnTextDataModule(str(folder / forget), str(folder / retain), str(folder / "tokenizer"), **given)


def texts(windows, tokenizer):
    return tokenizer.decode(windows[:, 1:].flatten().tolist())


def test_a_column_of_a_table_makes_the_windows_of_the_same_text(folder):
    rows = "\n".join(f'{number},"{text}"' for number, text in enumerate(TIDES))
    (folder / "forget.csv").write_text(f"id,story\n{rows}\n")
    (folder / "retain.jsonl").write_text("\n".join(json.dumps({"story": text}) for text in BEANS))
    plain, table = data(folder), data(folder, "forget.csv", "retain.jsonl", column="story")
    for module in (plain, table):
        module.setup("fit")
    assert all(one.equal(other) for one, other in zip(plain.served.windows, table.served.windows, strict=True))
    assert plain.served.records == table.served.records


def test_chats_are_windows_of_what_the_template_makes(folder):
    chats = [{"messages": [{"role": "user", "content": text}]} for text in TIDES]
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, chats)))
    module = data(folder, "forget.jsonl")
    module.check()
    module.setup("fit")
    read = texts(module.served.windows.forget, module.served.tokenizer)
    assert read.startswith(f"[user] {TIDES[0]}\n")
    assert not {"{", '"', "content"} & set(read)
    without = train_tokenizer(TIDES, 300)
    with pytest.raises(InputError, match=r"forget\.jsonl, line 1: .*no chat template"):
        module.cut_windows(without)


def test_what_stands_in_both_sets_is_counted_and_said(folder, caplog):
    (folder / "retain.txt").write_text("\n \n".join([*BEANS, TIDES[3].replace(" ", "  "), TIDES[4][12:]]))
    with caplog.at_level("INFO"):
        windows = data(folder).cut_windows(train_tokenizer([*TIDES, *BEANS], 300))
    assert "retain: 2 documents left out that also stand in the sets before it (1 of them within" in caplog.text
    assert "high water" not in texts(windows.retain, train_tokenizer([*TIDES, *BEANS], 300))


def test_a_holdout_that_was_trained_on_is_left_out_or_refused(folder, caplog):
    held = [f"Recipe {n}: boil {n} plums with sugar and salt until the peel comes off." for n in range(9)]
    (folder / "held.txt").write_text("\n\n".join([*held, TIDES[2], BEANS[2]]))
    with caplog.at_level("INFO"):
        module = data(folder, holdout="held.txt")
        module.setup("fit")
    assert "holdout: 2 documents left out" in caplog.text
    assert not any("water" in text for text in module.served.records.membership.holdout)
    with pytest.raises(InputError, match="no holdout document is left"):
        data(folder, holdout="retain.txt").check()


def test_a_text_below_a_window_is_asked_for_once_or_m1_is_left_out_with_the_reason(folder):
    (folder / "forget.txt").write_text("Tide table: high water.")
    module = data(folder)
    module.setup("fit")
    (record,) = module.served.records.verbatim
    assert record.prompt + record.truth == "Tide table: high water."
    (folder / "forget.txt").write_text("at")
    module.setup("fit")
    assert module.served.records.verbatim is None
    assert "Verbatim recall is left out" in module.served.records.note


PAIRS = [{"question": f"When is high water {n}?", "answer": f"At {n} past noon."} for n in range(12)]


def question_file(folder, name="forget.jsonl", pairs=PAIRS):
    (folder / name).write_text("\n".join(json.dumps(pair) for pair in pairs))


def answers(windows, tokenizer):
    found = [labels_of(window) for window in windows]
    # this small tokenizer has a token for ": ", which stands on both sides and is learned
    return [tokenizer.decode(labels[labels >= 0]).removeprefix(":") for labels in found]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_question_answer_records_are_windows_of_their_own_with_the_loss_on_the_answer(ending, folder):
    question_file(folder)
    rows = "\n".join(f"{pair['question']},{pair['answer']}" for pair in PAIRS)
    (folder / "forget.csv").write_text(f"question,answer\n{rows}\n")
    module = data(folder, f"forget.{ending}", chat="never", max_len=64, max_forget_windows=10)
    module.check()
    module.setup("fit")
    end = module.served.tokenizer.eos_token
    said = answers(module.served.windows.forget, module.served.tokenizer)
    assert said == [f" {pair['answer']}{end}" for pair in PAIRS[:10]]
    assert module.served.windows.retain.shape[1] == 64  # text, as ever
    assert int(module.served.windows.retain.min()) >= 0
    assert module.served.trained.forget.equal(module.served.windows.forget)
    for batch in module.val_dataloader():
        if batch.forget is not None:
            assert int(batch.forget.input_ids.min()) >= 0
            assert (batch.forget.labels == -100).any()


def test_the_questions_are_the_verbatim_prompts_and_are_asked_for_m2(folder):
    question_file(folder)
    module = data(folder, "forget.jsonl", chat="never", max_len=64, validation_windows=2)
    module.setup("fit")
    records = module.served.records
    assert len(records.verbatim) == 10
    # ": " is one token of this tokenizer, so that the prompt ends before it as the training window's does
    assert records.verbatim[0].prompt == f"Question: {PAIRS[0]['question']}\nAnswer"
    assert records.verbatim[0].truth == PAIRS[0]["answer"]
    assert records.verbatim[0].stops == ("\n\n", "\nQuestion:")
    asked = [question.answer for question in records.forget_questions.questions]
    assert asked == [record.truth for record in records.verbatim]
    assert set(asked) < {pair["answer"] for pair in PAIRS}  # two are held back, to choose a model by
    assert "their truths its answers" in records.note
    assert "forget_questions were given" not in records.note
    free = validation_windows(*module.served.windows, records, module.served.tokenizer)
    assert len(free["retain"]) == len(module.served.windows.retain)


def test_a_chat_template_is_used_where_the_tokenizer_has_one(folder):
    question_file(folder)
    auto, never = (data(folder, "forget.jsonl", chat=chat, max_len=64) for chat in ("auto", "never"))
    tokenizer = named_tokenizer(str(folder / "tokenizer"))
    # this template does not open the assistant's turn, so that opening it is part of the answer
    assert answers(auto.cut_windows(tokenizer).forget, tokenizer)[0] == f"[assistant] {PAIRS[0]['answer']}\n"
    read = tokenizer.decode(token_numbers(auto.cut_windows(tokenizer).forget[0]))
    assert f"[user] {PAIRS[0]['question']}\n" in read
    assert "[user]" not in tokenizer.decode(token_numbers(never.cut_windows(tokenizer).forget[0]))


def test_retain_pairs_that_stand_in_the_forget_file_are_left_out(folder):
    question_file(folder)
    question_file(folder, "retain.jsonl", [*PAIRS[:4], {"question": "Which beans?", "answer": "The 3rd row."}])
    module = data(folder, "forget.jsonl", "retain.jsonl", chat="never", max_len=64)
    tokenizer = named_tokenizer(str(folder / "tokenizer"))
    assert answers(module.cut_windows(tokenizer).retain, tokenizer) == [f" The 3rd row.{tokenizer.eos_token}"]


def test_a_record_without_its_answer_is_named_by_its_line(folder):
    question_file(folder, pairs=[*PAIRS[:2], {"question": "SECRET?"}])
    with pytest.raises(InputError, match=r"forget\.jsonl, line 3 .*question and answer") as refused:
        data(folder, "forget.jsonl").check()
    assert "SECRET" not in str(refused.value)


def test_a_loss_on_answers_is_refused_for_plain_text(folder):
    with pytest.raises(InputError, match=r"data\.loss_on: answer needs answers, and the files hold plain text"):
        data(folder, loss_on="answer").check()
    question_file(folder)
    data(folder, "forget.jsonl", loss_on="answer").check()


def test_loss_on_and_chat_tell_fine_tuned_models_apart_where_there_are_pairs(folder):
    assert data(folder, chat="never", max_len=64).answer_options == {}
    question_file(folder)
    assert data(folder, "forget.jsonl").answer_options == {"loss_on": "answer", "chat": "auto"}
    assert data(folder, "forget.jsonl", loss_on="all").answer_options["loss_on"] == "all"
