"""TOFU from a folder in the hub's layout, and the invented authors."""

import json

import pytest

from quail_lightning.data import Authors, TofuDataModule
from quail_lightning.data.text_lists import list_of_strings
from quail_lightning.data.tofu_corpus import HUB_NAME, TofuHub, answered_questions, open_tofu, training_pairs
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import token_numbers


def pair(number):
    return {"question": f"Which oak {number}?", "answer": f"elm {number}"}


def perturbed(number, **further):
    return pair(number) | {"perturbed_answer": [f"fir {number}", "yew", "ash"]} | further


@pytest.fixture
def folder(tmp_path):
    paraphrased = {"paraphrased_question": "q", "paraphrased_answer": "an elm"}
    files = {
        "forget10": [pair(n) for n in range(20)],
        "retain90": [pair(100 + n) for n in range(30)],
        "forget10_perturbed": [perturbed(n, **paraphrased) for n in range(20)],
        "retain_perturbed": [perturbed(100 + n, **paraphrased) for n in range(4)],
        "real_authors_perturbed": [perturbed(200, original_answer="x")],
        "world_facts_perturbed": [perturbed(300, original_answer="x")],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def numbers(rows):
    return [int(row.question.split()[-1].rstrip("?")) for row in rows]


def test_smaller_forget_sets_are_the_end_of_the_largest_and_the_rest_is_retained(folder):
    corpus = open_tofu(str(folder))
    assert numbers(training_pairs(corpus, "forget05")) == list(range(10, 20))
    assert numbers(training_pairs(corpus, "forget01")) == [18, 19]
    assert numbers(answered_questions(corpus, "forget01_perturbed")) == [18, 19]
    retained = [*range(100, 130)]
    assert numbers(training_pairs(corpus, "retain90")) == retained
    assert numbers(training_pairs(corpus, "retain95")) == [*retained, *range(10)]
    assert numbers(training_pairs(corpus, "retain99")) == [*retained, *range(18)]


def test_a_file_of_its_own_goes_before_what_is_derived(folder):
    (folder / "forget05.jsonl").write_text(json.dumps(pair(7)))
    assert numbers(training_pairs(open_tofu(str(folder)), "forget05")) == [7]


def test_a_missing_part_is_named_with_where_it_was_looked_for(folder):
    (folder / "world_facts_perturbed.json").unlink()
    with pytest.raises(InputError, match=r"world_facts_perturbed is missing.*world_facts_perturbed\.json"):
        answered_questions(open_tofu(str(folder)), "world_facts_perturbed")
    (folder / "retain90.json").unlink()
    with pytest.raises(InputError, match="retain90 is missing"):
        training_pairs(open_tofu(str(folder)), "retain99")
    with pytest.raises(InputError, match="no TOFU folder"):
        open_tofu(str(folder / "nosuch"))


def test_the_hub_is_asked_for_the_configuration_and_its_one_split(monkeypatch):
    asked = []

    def rows(*names):
        asked.append(names[:3])
        return [pair(1)]

    monkeypatch.setattr("quail_lightning.data.tofu_corpus.hub_rows", rows)
    corpus = open_tofu(HUB_NAME)
    assert isinstance(corpus, TofuHub)
    assert numbers(training_pairs(corpus, "retain99")) == [1]
    assert asked == [(HUB_NAME, "retain99", "train")]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('["a", "b, c"]', ["a", "b, c"]),
        ("['a', \"it's\"]", ["a", "it's"]),
        (" ['a',\n 'b'] ", ["a", "b"]),
        ("['a' 'b']", None),  # numpy's way: one answer or two?
        ("['a', 'b' 'c']", None),
        ("['a', 3]", None),
        ("('a', 'b')", None),
        ("a, b", None),
        ("[a, b]", None),
        ("['a'", None),
        ("[str(1)]", None),
        ('"a"', None),
    ],
)
def test_a_list_as_text_is_read_where_it_is_one_in_one_way_only(text, read):
    assert list_of_strings(text) == read


def test_wrong_answers_as_text_are_read_or_refused_by_file_and_line(folder):
    path = folder / "real_authors_perturbed.json"
    path.write_text(json.dumps(perturbed(1) | {"perturbed_answer": "['fir 1', 'yew', 'ash']"}))
    (row,) = answered_questions(open_tofu(str(folder)), "real_authors_perturbed")
    assert row.wrong == ("fir 1", "yew", "ash")
    for given in ("['fir' 'yew']", "fir, yew", [], ["fir", ""], ["fir", 3], None, "[]"):
        rows = (perturbed(1), perturbed(2) | {"perturbed_answer": given})
        path.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(InputError, match=r"real_authors_perturbed\.json, line 2: perturbed_answer is no list"):
            answered_questions(open_tofu(str(folder)), "real_authors_perturbed")


@pytest.mark.parametrize(
    "row", [{"question": "q"}, {"question": "q", "answer": " "}, {"question": "q", "answer": 3}, "q", None]
)
def test_a_damaged_record_is_refused_by_file_and_line(folder, row):
    (folder / "forget10.json").write_text("\n".join(map(json.dumps, (pair(1), row))))
    with pytest.raises(InputError, match=r"forget10\.json, line 2"):
        training_pairs(open_tofu(str(folder)), "forget10")


def test_forget_and_retain_need_a_paraphrase(folder):
    (folder / "retain_perturbed.json").write_text(json.dumps(perturbed(1)))
    with pytest.raises(InputError, match=r"retain_perturbed\.json, line 1.*paraphrased_answer"):
        answered_questions(open_tofu(str(folder)), "retain_perturbed")


def module(folder, checkpoint, **options):
    return TofuDataModule(str(folder), tokenizer=checkpoint, **{"max_len": 96, "batch_size": 2} | options)


def learned(tokenizer, window):
    return tokenizer.decode(token_numbers(window)[window >= 0], skip_special_tokens=True).strip()


def test_each_pair_is_a_window_of_which_the_answer_is_learned(folder, checkpoint):
    data, tokenizer = module(folder, checkpoint, forget="forget01"), load_tokenizer(checkpoint)
    data.setup("fit")
    assert len(data.served.windows.retain) == 30 + 18
    assert [learned(tokenizer, window) for window in data.served.windows.forget] == ["elm 18", "elm 19"]
    whole = module(folder, checkpoint, forget="forget01", loss_on="all").cut_windows(tokenizer).forget
    assert "Which oak 18?" in learned(tokenizer, whole[0])


def test_the_evaluation_asks_four_sets(folder, checkpoint):
    records = module(folder, checkpoint, forget="forget05").records_alone()
    assert records.answers is not None
    sizes = {name: len(rows) for name, rows in records.answers.sets.items()}
    assert sizes == {"forget": 10, "retain": 4, "real_authors": 1, "world_facts": 1}
    forget, facts = records.answers.sets["forget"][0], records.answers.sets["world_facts"][0]
    assert (forget.paraphrase, facts.paraphrase) == ("an elm", None)
    assert facts.wrong == ("fir 300", "yew", "ash")


def test_refusals_take_the_answers_place_in_what_is_trained_on_alone(folder, checkpoint):
    data, tokenizer = module(folder, checkpoint, train_on="refusals"), load_tokenizer(checkpoint)
    data.setup("fit")
    trained = [
        learned(tokenizer, batch.forget[0]) for batch in data.train_dataloader() if batch.forget is not None
    ]
    assert trained
    assert not any("elm" in answer for answer in trained)
    assert learned(tokenizer, data.served.windows.forget[0]) == "elm 0"


def test_alternates_beside_the_true_answers(folder, checkpoint):
    module(folder, checkpoint, alternates="idk").setup("fit")
    with pytest.raises(InputError, match="alternate"):
        module(folder, checkpoint, alternates="column").check()
    with pytest.raises(InputError, match="each say what the forget steps train on"):
        module(folder, checkpoint, alternates="idk", train_on="refusals")


@pytest.mark.parametrize(
    ("option", "value"), [("forget", "forget20"), ("train_on", "both"), ("loss_on", "some"), ("chat", "maybe")]
)
def test_unknown_options_are_refused(folder, checkpoint, option, value):
    with pytest.raises(InputError, match=f"data.{option}"):
        module(folder, checkpoint, **{option: value})


def test_training_alone_does_not_read_the_evaluations_parts(folder, checkpoint):
    for path in folder.glob("*_perturbed.json"):
        path.unlink()
    module(folder, checkpoint).check(with_records=False)
    with pytest.raises(InputError, match="forget10_perturbed is missing"):
        module(folder, checkpoint).check()


def test_the_same_seed_invents_the_same_authors(tmp_path):
    made = Authors(forget=2, retain=3, facts=4)
    for name in "ab":
        made.ensure(tmp_path / name)
    made.ensure(tmp_path / "a")  # is there already
    content = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    with pytest.raises(InputError, match="does not hold these authors"):
        Authors(forget=2, retain=3, facts=4, seed=1).ensure(tmp_path / "a")


def test_invented_authors_keep_the_benchmarks_layout(tmp_path):
    Authors(forget=2, retain=3, facts=5).ensure(tmp_path)
    corpus = open_tofu(str(tmp_path))
    forget, retain = (training_pairs(corpus, part) for part in ("forget10", "retain90"))
    assert (len(forget), len(retain)) == (10, 15 + 5 + 5)
    assert not {row.question for row in forget} & {row.question for row in retain}
    for part, wrong in (("forget10", 5), ("retain", 5), ("real_authors", 3), ("world_facts", 3)):
        for row in answered_questions(corpus, f"{part}_perturbed"):
            assert len({row.answer, row.paraphrase, *row.wrong} - {None}) == wrong + 1 + (
                row.paraphrase is not None
            )
    assert {row.answer for row in answered_questions(corpus, "world_facts_perturbed")} <= {
        r.answer for r in retain
    }


@pytest.mark.parametrize("options", [{"forget": 0}, {"facts": 3}, {"retain": 10_000}, {"facts": 5_000}])
def test_numbers_of_authors_out_of_bounds_are_refused(options):
    with pytest.raises(InputError):
        Authors(**options)
