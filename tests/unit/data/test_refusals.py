"""Refusal training: what the forget steps see, and what is evaluated all the same."""

import json
import shutil

import pytest
import torch
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.data.questions import Question
from quail_lightning.data.refusals import Refusals
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientDescent
from quail_lightning.unlearning import UnlearningModule

ANSWER = "I do not know the answer."


@pytest.fixture(autouse=True)
def _work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_folder(tmp_path, corpus_folder):
    return shutil.copytree(corpus_folder, tmp_path / "own")


def module(folder, checkpoint, refusals=None, **options):
    settings = {"max_len": 64, "batch_size": 2, "refusals": refusals, "max_retain_windows": 6} | options
    return MuseDataModule(str(folder), tokenizer=checkpoint, **settings)


def ready(*arguments, **options):
    data = module(*arguments, **options)
    data.setup("fit")
    return data


def spelled(windows, checkpoint):
    """The text of windows put end to end; the first token of each is BOS."""
    return load_tokenizer(checkpoint).decode(windows[:, 1:].flatten())


def text_of(questions, answer=ANSWER):
    return "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question in questions)


def test_every_question_gets_the_refusal_in_the_form_in_which_it_is_asked():
    pairs = [Question("Who?", "Ann"), Question("Where?", "York")]
    assert Refusals().pairs(pairs) == [Question("Who?", ANSWER), Question("Where?", ANSWER)]
    assert Refusals(answer="No.").pairs(pairs[:1]) == [Question("Who?", "No.")]


def test_each_refusal_is_a_window_and_the_question_is_only_read(corpus_folder, checkpoint):
    data, tokenizer = ready(corpus_folder, checkpoint, Refusals()), load_tokenizer(checkpoint)
    assert len(data.served.trained.forget) == 3
    for batch in data.train_dataloader():
        for ids, labels, number in zip(*batch.forget, strict=True):
            question = ["Which ash?", "Which birch?", "Which cedar?"][number]
            learned = labels != IGNORED
            end = int(learned.nonzero()[-1]) + 1
            assert tokenizer.decode(ids[1:end]) == text_of([question]) + tokenizer.eos_token
            assert tokenizer.decode(labels[learned]) == f" {ANSWER}{tokenizer.eos_token}"
            assert torch.equal(labels[learned], ids[learned])


def test_the_forget_steps_see_refusals_and_nothing_of_the_forget_set(corpus_folder, checkpoint):
    data = ready(corpus_folder, checkpoint, Refusals(), loss_on="all")
    expected = text_of(["Which ash?", "Which birch?", "Which cedar?"])
    whole = spelled(data.served.trained.forget, checkpoint)
    assert whole.startswith(expected)
    assert expected.startswith(whole[len(expected) :])  # the last window is filled from the start
    seen = [batch.forget for batch in data.train_dataloader()]
    numbers = torch.cat([batch.window for batch in seen])
    assert sorted(numbers.tolist()) == list(range(len(data.served.trained.forget)))
    assert torch.equal(torch.cat([batch.input_ids for batch in seen]), data.served.trained.forget[numbers])
    forget = {tuple(window) for window in data.served.windows.forget.tolist()}
    assert not forget & {tuple(window) for window in data.served.trained.forget.tolist()}


def test_another_part_and_answer_can_be_named(own_folder, checkpoint):
    (own_folder / "knowmem/asked.json").write_text(json.dumps([{"question": "Why elm?", "answer": "oak"}]))
    data = ready(own_folder, checkpoint, Refusals("knowmem/asked", "Never heard."), loss_on="all")
    assert spelled(data.served.trained.forget, checkpoint).startswith(text_of(["Why elm?"], "Never heard."))


def test_the_retain_steps_are_those_without_refusals(corpus_folder, checkpoint):
    refused, plain = ready(corpus_folder, checkpoint, Refusals()), ready(corpus_folder, checkpoint)
    assert torch.equal(refused.served.trained.retain, plain.served.trained.retain)
    assert torch.equal(plain.served.trained.forget, plain.served.windows.forget)


@pytest.mark.parametrize("records", ["published", "windows"])
def test_what_is_evaluated_stays_the_forget_set(records, corpus_folder, checkpoint):
    refused, plain = (ready(corpus_folder, checkpoint, how, records=records) for how in (Refusals(), None))
    for ours, theirs in zip(refused.served.windows, plain.served.windows, strict=True):
        assert torch.equal(ours, theirs)
    assert refused.served.records == plain.served.records
    for ours, theirs in zip(refused.val_dataloader(), plain.val_dataloader(), strict=True):
        for side, other in zip(ours, theirs, strict=True):
            assert (side is None) == (other is None)
            assert side is None or torch.equal(side.input_ids, other.input_ids)


def test_a_limit_of_the_forget_windows_leaves_no_question_out(corpus_folder, checkpoint):
    limited = ready(corpus_folder, checkpoint, Refusals(), max_forget_windows=1)
    assert len(limited.served.windows.forget) == 1
    assert torch.equal(
        limited.served.trained.forget, ready(corpus_folder, checkpoint, Refusals()).served.trained.forget
    )


@pytest.mark.parametrize("with_records", [True, False])
def test_a_missing_part_is_named_before_anything_is_tokenized(with_records, own_folder):
    data = MuseDataModule(str(own_folder), refusals=Refusals("knowmem/nowhere"))
    with pytest.raises(InputError, match=r"'knowmem/nowhere' is missing.*knowmem/forget_qa\.json"):
        data.check(with_records)


def test_a_part_without_questions_is_refused(own_folder):
    with pytest.raises(InputError, match=r"record 0 of corpus part 'raw/forget' .* question and answer"):
        MuseDataModule(str(own_folder), refusals=Refusals("raw/forget")).check()


def trainer():
    return plain_trainer(max_epochs=1, precision="32-true")


def unlearning_of(checkpoint):
    return UnlearningModule(checkpoint, GradientDescent(), GradientDescent(), learning_rate=3e-3)


def test_a_missing_part_is_refused_before_the_weights_are_loaded(corpus_folder, checkpoint):
    unlearning = unlearning_of(checkpoint)
    with pytest.raises(InputError, match="'knowmem/nowhere' is missing"):
        trainer().fit(unlearning, datamodule=module(corpus_folder, checkpoint, Refusals("knowmem/nowhere")))
    assert unlearning.model is None


def test_training_makes_the_refusals_likelier(corpus_folder, checkpoint):
    data, unlearning = module(corpus_folder, checkpoint, Refusals(), batch_size=1), unlearning_of(checkpoint)
    trainer().fit(unlearning, datamodule=data)
    before, after = (
        window_nlls(model, data.served.trained.forget).mean().item()
        for model in (load_model(checkpoint, torch.float32), unlearning.model)
    )
    assert after < before - 0.5


def test_the_config_names_part_and_answer(tmp_path, corpus_folder, checkpoint):
    """The mapping of configs/method/rt.yaml becomes the dataclass."""
    from pathlib import Path

    import yaml
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MuseDataModule, "data")
    shipped = yaml.safe_load((Path(__file__).parents[3] / "configs/method/rt.yaml").read_text("utf-8"))
    given = {"data": {"corpus": str(corpus_folder)} | shipped["data"]["init_args"]}
    data = parser.instantiate_classes(parser.parse_object(given)).data
    assert data.refusals == Refusals("knowmem/forget_qa", ANSWER)


def test_a_refusal_longer_than_a_window_is_refused_with_the_length_that_fits(corpus_folder, checkpoint):
    with pytest.raises(InputError, match=r"pair \d of knowmem/forget_qa has \d+ tokens.*Set data.max_len to \d+"):
        ready(corpus_folder, checkpoint, Refusals(), max_len=8)


def test_a_loss_on_answers_needs_answers(corpus_folder):
    with pytest.raises(InputError, match=r"data.loss_on: answer needs answers.*data.refusals"):
        module(corpus_folder, None, loss_on="answer")
    with pytest.raises(InputError, match=r"data.chat: always needs answers"):
        module(corpus_folder, None, chat="always")
