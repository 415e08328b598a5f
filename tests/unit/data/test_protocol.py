"""Every DataModule keeps the protocol, serves by one holder, and parses a file once."""

import json
import sys
from collections import Counter

import pytest
from lightning.pytorch import LightningDataModule, Trainer

from quail_lightning.data import (
    MuseDataModule,
    OwnQuestionsDataModule,
    OwnTextDataModule,
    RwkuDataModule,
    TwitterDataModule,
)
from quail_lightning.data.protocol import UnlearningData, data_of
from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent
from quail_lightning.unlearning import UnlearningModule

opened: Counter | None = None


def _count(event, arguments):
    if event == "open" and opened is not None:
        opened[str(arguments[0])] += 1


sys.addaudithook(_count)  # stays; it counts only where a test asks


@pytest.fixture
def opens():
    """Path → how often it was opened since."""
    global opened
    opened = Counter()
    yield opened
    opened = None


def own(folder, checkpoint):
    for name in ("forget", "retain", "holdout"):
        rows = [{"text": f"{name} oak pine elm {number} ash fir birch maple rowan"} for number in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "asked.jsonl").write_text(json.dumps({"question": "Which tree?", "answer": "oak"}))
    names = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain", "holdout")}
    return OwnTextDataModule(
        **names, forget_questions=str(folder / "asked.jsonl"), tokenizer=checkpoint, max_len=24
    )


def own_questions(folder, checkpoint):
    for name in ("forget", "retain"):
        rows = [
            {"question": f"Which {name} {number}?", "answer": f"oak {number}", "wrong": "elm"}
            for number in range(6)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = (str(folder / f"{name}.jsonl") for name in ("forget", "retain"))
    return OwnQuestionsDataModule(*names, tokenizer=checkpoint, max_len=48, alternates="others")


def muse(folder, checkpoint, corpus_folder):
    return MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24)


def twitter(folder, checkpoint):
    for split in ("forget", "retain1", "retain2"):
        rows = [{"text": f"{split} says oak pine elm {number}", "label": number % 2} for number in range(6)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return TwitterDataModule(str(folder), tokenizer=checkpoint, max_len=48)


KINDS = {"own": own, "own_questions": own_questions, "muse": muse, "twitter": twitter}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_parsed_once_from_the_check_to_the_records(kind, tmp_path, checkpoint, corpus_folder, opens):
    arguments = (tmp_path, checkpoint, corpus_folder) if kind == "muse" else (tmp_path, checkpoint)
    data = KINDS[kind](*arguments)
    data.check()
    opens.clear()
    data.check()
    data.prepare_data()
    data.training_documents()
    data.holdout_documents()
    data.setup("fit")
    read = {path: count for path, count in opens.items() if path.startswith((str(tmp_path), str(corpus_folder)))}
    assert not read, "parsed by the first check"
    assert isinstance(data, UnlearningData)
    assert len(data.served.windows.forget)
    assert data.served.records.membership or data.served.records.answers


def test_a_file_that_was_written_anew_is_parsed_anew(tmp_path, checkpoint, opens):
    data = own(tmp_path, checkpoint)
    assert len(data.training_documents().forget) == 40
    (tmp_path / "forget.jsonl").write_text(json.dumps({"text": "one document"}))
    assert len(data.training_documents().forget) == 1


def test_rwku_keeps_the_protocol_too():
    assert {"check", "training_documents", "holdout_documents", "cut_windows", "records_alone", "setup"} <= set(
        dir(RwkuDataModule)
    )


def test_a_stranger_s_data_is_refused_by_what_it_lacks(checkpoint):
    class Stranger(LightningDataModule):
        batch_size, max_len, seed = 2, 24, 0

        def train_dataloader(self):
            return []

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    lacking = "corpus_name, max_forget_windows, max_retain_windows, check, training_documents, holdout_documents"
    lacking += r", cut_windows, served, records_alone\. Allowed"
    with pytest.raises(InputError, match=f"Stranger is no data to unlearn with: it lacks {lacking}"):
        trainer.fit(UnlearningModule(checkpoint, GradientAscent()), datamodule=Stranger())
    with pytest.raises(InputError, match="no data to unlearn with"):
        data_of(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
