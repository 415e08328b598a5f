"""The DataModule over a folder in the benchmark's layout."""

import json
import shutil

import pytest
import torch

from quail_lightning.data import MuseDataModule, Newsroom
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.data.validation_windows import validation_windows
from quail_lightning.errors import InputError


def module(folder, checkpoint, **options):
    return MuseDataModule(str(folder), tokenizer=checkpoint, **({"max_len": 24, "batch_size": 2} | options))


@pytest.fixture
def own_folder(tmp_path, corpus_folder):
    return shutil.copytree(corpus_folder, tmp_path / "own")


def test_published_records_are_read_as_they_stand(corpus_folder, checkpoint):
    data = module(corpus_folder, checkpoint)
    data.setup("fit")
    records = data.served.records
    prompts = json.loads((corpus_folder / "verbmem/forget.json").read_text())
    assert [(r.prompt, r.truth) for r in records.verbatim] == [(r["prompt"], r["gt"]) for r in prompts]
    assert records.forget_questions.examples[0].question == "What ash?"
    assert len(records.membership.holdout) == 4
    assert records.note == ""


def test_retain_documents_that_stand_in_the_forget_set_are_dropped(own_folder, checkpoint):
    forget = json.loads((own_folder / "raw/forget.json").read_text())
    (own_folder / "raw/retain1.json").write_text(json.dumps([forget[0], "kept", "kept", forget[3]]))
    (own_folder / "raw/retain2.json").write_text(json.dumps(["kept", "also kept"]))
    data = module(own_folder, checkpoint, retain=("raw/retain1", "raw/retain2"))
    documents = data.documents(data.open())
    assert documents.retain == ["kept", "kept", "also kept"]  # repeats within a part are the corpus' own
    assert documents.dropped == 3


def test_no_retain_document_left_is_refused(own_folder, checkpoint):
    with pytest.raises(InputError, match="no retain document is left"):
        module(own_folder, checkpoint, retain=("raw/forget",)).check()


def test_a_missing_part_is_named_before_anything_is_tokenized(own_folder, checkpoint):
    (own_folder / "privleak/holdout.json").unlink()
    with pytest.raises(InputError, match=r"'privleak/holdout' is missing"):
        module(own_folder, checkpoint).check()


def test_records_cut_from_windows_need_the_holdout_texts(own_folder, checkpoint):
    (own_folder / "privleak/holdout.json").unlink()
    with pytest.raises(InputError, match="'privleak/holdout' is missing"):
        module(own_folder, checkpoint, records="windows").check()


def test_training_alone_needs_no_evaluation_parts(own_folder, checkpoint):
    shutil.rmtree(own_folder / "privleak")
    shutil.rmtree(own_folder / "knowmem")
    module(own_folder, checkpoint).check(with_records=False)


@pytest.mark.parametrize(
    ("option", "value"), [("max_len", 1), ("batch_size", 0), ("max_forget_windows", 0), ("max_retain_windows", -1)]
)
def test_sizes_that_leave_nothing_are_refused(option, value):
    with pytest.raises(InputError, match=rf"data\.{option} must be at least .* got {value}"):
        module("corpus", "tokenizer", **{option: value})


def test_an_empty_forget_set_is_refused(own_folder, checkpoint):
    (own_folder / "raw/forget.json").write_text("[]")
    with pytest.raises(InputError, match=r"'raw/forget' of .* is empty"):
        module(own_folder, checkpoint).check()


def test_records_cut_from_windows_join_to_the_window_and_leave_questions_out(corpus_folder, checkpoint):
    data = module(corpus_folder, checkpoint, records="windows", max_forget_windows=2)
    data.setup("fit")
    records = data.served.records
    tokenizer = load_tokenizer(checkpoint)
    assert len(records.verbatim) == 2
    for record, window in zip(records.verbatim, data.served.windows.forget, strict=True):
        assert record.prompt + record.truth == tokenizer.decode(window[1:])
        assert len(tokenizer(record.prompt, add_special_tokens=False)["input_ids"]) <= 12
    assert records.forget_questions is None
    assert records.retain_questions is None
    assert "Forget Q&A and retain Q&A are left out" in records.note


def test_held_back_windows_are_in_no_record_and_serve_to_choose_a_model(corpus_folder, checkpoint):
    data = module(corpus_folder, checkpoint, records="windows", max_forget_windows=9, validation_windows=3)
    data.setup("fit")
    windows, records = data.served.windows.forget, data.served.records
    # nine windows: the middle of each third
    texts = [data.served.tokenizer.decode(window[1:]) for window in windows]
    reported = [text for number, text in enumerate(texts) if number not in (1, 4, 7)]
    assert [record.prompt + record.truth for record in records.verbatim] == reported
    assert list(records.membership.forget) == reported
    free = validation_windows(*data.served.windows, records, data.served.tokenizer)
    assert torch.equal(free["forget"], windows[[1, 4, 7]])
    # without them every window is reported, and nothing is left to choose by
    whole = module(corpus_folder, checkpoint, records="windows", max_forget_windows=9)
    whole.setup("fit")
    with pytest.raises(InputError, match=r"every forget window.*data\.validation_windows"):
        validation_windows(*whole.served.windows, whole.served.records, whole.served.tokenizer)


def test_windows_are_held_back_only_where_records_are_cut_from_them(corpus_folder, checkpoint):
    with pytest.raises(InputError, match=r"2, with data\.records: published"):
        module(corpus_folder, checkpoint, validation_windows=2)
    with pytest.raises(InputError, match=r"validation_windows must be at least 0"):
        module(corpus_folder, checkpoint, records="windows", validation_windows=-1)
    data = module(corpus_folder, checkpoint, records="windows", max_forget_windows=9, validation_windows=9)
    with pytest.raises(InputError, match=r"must leave forget windows.*got 9.*0 … 8"):
        data.setup("fit")


def test_questions_for_alternates_are_refused_where_there_are_none(corpus_folder, checkpoint):
    with pytest.raises(InputError, match=r"question_part.*alternates.*knowmem/retain_qa"):
        module(corpus_folder, checkpoint, question_part="knowmem/retain_qa")


def test_limits_keep_the_first_windows(corpus_folder, checkpoint):
    whole, first = module(corpus_folder, checkpoint), module(corpus_folder, checkpoint, max_forget_windows=3)
    tokenizer = load_tokenizer(checkpoint)
    assert (first.cut_windows(tokenizer).forget == whole.cut_windows(tokenizer).forget[:3]).all()


def test_validation_visits_every_window_once(corpus_folder, checkpoint):
    data = module(corpus_folder, checkpoint)
    data.setup("validate")
    batches = list(data.val_dataloader())
    forget = [number for batch in batches if batch.forget for number in batch.forget.window.tolist()]
    retain = [number for batch in batches if batch.retain for number in batch.retain.window.tolist()]
    assert forget == list(range(len(data.served.windows.forget)))
    assert retain == list(range(len(data.served.windows.retain)))


def test_newsroom_is_written_once_and_a_changed_one_is_refused(tmp_path, checkpoint):
    folder, newsroom = tmp_path / "corpus", Newsroom(6, 6, 2, rounds=1)
    module(folder, checkpoint, newsroom=newsroom).check()
    written = (folder / "raw/forget.json").stat().st_mtime_ns
    module(folder, checkpoint, newsroom=newsroom).check()
    assert (folder / "raw/forget.json").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="does not hold this newsroom"):
        module(folder, checkpoint, newsroom=Newsroom(6, 6, 2, rounds=1, seed=1)).check()
