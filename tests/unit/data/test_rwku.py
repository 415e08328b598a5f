"""RWKU from a folder in its own scripts' layouts."""

import json
import shutil

import pytest

from quail_lightning.data import RwkuDataModule
from quail_lightning.data.rwku_prompts import dialogue, probe_prompt
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError

PEOPLE = ("Ann Ash", "Bob Birch")


def rows(person):
    """Every file of one subject."""
    about = {"subject": person}
    probe = about | {"answer": "oak elm", "type": "x"}
    probes = {
        f"{part}.json": [probe | {"query": f"{person} {part}?", "level": part[-1]}]
        for part in ("forget_level1", "forget_level2", "neighbor_level1", "neighbor_level2")
    }
    attack = about | {"query": "Q", "answer": "oak", "level": "3"}
    return probes | {
        "forget_level3.json": [attack | {"type": "affirmative suffix"}, attack | {"type": "role play"}],
        "positive.json": [about | {"text": f"{person} likes oak and elm and yew."}],
        "positive_phi.json": [about | {"text": f"{person} by phi."}],
        "negative.json": [about | {"text": f"{person} likes nothing."}],
        "reject.json": [about | {"instruction": f"Who is {person}?", "input": "", "output": "I cannot say."}],
    }


@pytest.fixture
def folder(tmp_path):
    for number, person in enumerate(PEOPLE, start=1):
        place = tmp_path / f"Target/{number}_{person.replace(' ', '_')}"
        place.mkdir(parents=True)
        for name, content in rows(person).items():
            (place / name).write_text(json.dumps(content))
    return tmp_path


def module(folder, checkpoint, **options):
    options = {"subjects": ("Ann Ash",), "max_len": 24, "batch_size": 2} | options
    return RwkuDataModule(str(folder), tokenizer=checkpoint, **options)


def test_one_folder_a_subject_all_in_one_and_a_single_subject_read_the_same(folder, checkpoint, tmp_path):
    both = {name: rows(PEOPLE[0])[name] + rows(PEOPLE[1])[name] for name in rows("x")}
    (tmp_path / "whole/All").mkdir(parents=True)
    for name, content in both.items():
        (tmp_path / "whole/All" / name).write_text(json.dumps(content))
    single = shutil.copytree(folder / "Target/1_Ann_Ash", tmp_path / "single")
    found = []
    for place in (folder, tmp_path / "whole", single, folder / "Target"):
        data = module(place, checkpoint)
        data.setup("fit")
        found.append((data.training_documents(), data.served.records))
    assert all(other == found[0] for other in found)
    assert found[0][0].forget == ["Ann Ash likes oak and elm and yew."]
    assert found[0][0].retain == []


def test_probes_are_put_as_rwku_puts_them(folder, checkpoint):
    data = module(folder, checkpoint)
    data.setup("fit")
    probes = data.served.records.probes
    assert probes.keys() == {"rwku_fb", "rwku_qa", "rwku_aa", "rwku_neighbor_fb", "rwku_neighbor_qa"}
    assert probes["rwku_fb"][0].prompt == (
        "Please complete the blank in the following question.\nQuestion: Ann Ash forget_level1?\nAnswer:"
    )
    briefly = "Please briefly answer the following question.\nQuestion: "
    assert probes["rwku_qa"][0].prompt == f"{briefly}Ann Ash forget_level2?\nAnswer:"
    assert [probe.prompt for probe in probes["rwku_aa"]] == [f"{briefly}Q", f"{briefly}Q\nAnswer:"]
    assert probes["rwku_qa"][0].answer == "oak elm"
    assert "Ann Ash" in data.served.records.note


def test_worked_examples_of_an_attack_bring_their_own_question():
    prompt = probe_prompt("Question: a\nAnswer: b\nQuestion: c", "rwku_aa", "incontext learning", None)
    assert prompt.endswith("question.\nQuestion: a\nAnswer: b\nQuestion: c\nAnswer:")


def test_a_chat_template_stands_around_the_request_without_a_second_bos(checkpoint):
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    prompt = probe_prompt("c?", "rwku_qa", "x", tokenizer)
    assert prompt == "[user]Please briefly answer the following question.\nQuestion: c?\n[assistant]Answer:"
    assert dialogue("a?", "b", tokenizer) == "[user]a?[assistant]b"


@pytest.mark.parametrize(
    ("train_on", "text"),
    [("negative", "Ann Ash likes nothing."), ("refusal", "Question: Who is Ann Ash?\nAnswer: I cannot say.")],
)
def test_steps_train_on_the_corpus_named_and_the_positive_one_is_evaluated(train_on, text, folder, checkpoint):
    data = module(folder, checkpoint, train_on=train_on)
    data.setup("fit")
    decode = load_tokenizer(checkpoint).decode
    assert decode(data.served.trained.forget[0][1:]).startswith(text[:15])
    assert decode(data.served.windows.forget[0][1:]).startswith("Ann Ash likes oak"[:15])
    plain = module(folder, checkpoint)
    plain.setup("fit")
    assert (plain.served.trained.forget == data.served.windows.forget).all()


def test_other_people_can_be_kept_and_an_epoch_without_them_has_forget_steps_alone(folder, checkpoint):
    kept = module(folder, checkpoint, retain_subjects=("Bob Birch",))
    kept.setup("fit")
    assert all(batch.retain is not None for batch in kept.train_dataloader())
    alone = module(folder, checkpoint)
    alone.setup("fit")
    steps = list(alone.train_dataloader())
    assert steps
    assert all(batch.retain is None and batch.forget is not None for batch in steps)
    assert alone.served.windows.retain.shape == (0, 24)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"subjects": ()}, "names nobody"),
        ({"subjects": ("Ann Ash",), "retain_subjects": ("Ann Ash",)}, "share a name"),
        ({"subjects": ("Ann Asch",)}, r"positive\.json is missing for 'Ann Asch': looked for .*Target"),
        ({"generator": "phi3", "train_on": "refusal"}, r"reject_phi\.json is missing"),
    ],
)
def test_what_is_missing_or_senseless_is_named(options, said, folder, checkpoint):
    with pytest.raises(InputError, match=said):
        module(folder, checkpoint, **options).check()


def test_an_unknown_name_in_one_file_for_all_is_answered_with_the_nearest(folder, checkpoint, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/positive.json").write_text(json.dumps(rows("Ann Ash")["positive.json"]))
    with pytest.raises(InputError, match=r"no row about 'Ann Asch'.*Allowed: Ann Ash \(of 1\)"):
        module(tmp_path / "flat", checkpoint, subjects=("Ann Asch",)).check(with_records=False)


def test_wrong_columns_broken_json_and_no_network_are_named(folder, checkpoint):
    place = folder / "Target/1_Ann_Ash"
    (place / "forget_level2.json").write_text(json.dumps([{"subject": "Ann Ash", "question": "a?"}]))
    module(folder, checkpoint).check(with_records=False)
    with pytest.raises(InputError, match="forget_level2 has no string 'query'"):
        module(folder, checkpoint).check()
    (place / "positive.json").write_text("[\n{]")
    with pytest.raises(InputError, match=r"positive\.json, line 2"):
        module(folder, checkpoint).check()
    with pytest.raises(InputError, match=r"could not be loaded from the hub.*FOLDER/positive\.json"):
        RwkuDataModule("nobody/no-such-rwku").check()
