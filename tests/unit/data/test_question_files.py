"""A user's own files of questions: what is read, and what is refused by file and line."""

import json

import pytest

from quail_lightning.data.question_files import check_apart, check_enough, read_answered
from quail_lightning.data.questions import AnsweredQuestion
from quail_lightning.data.tofu_corpus import answered_questions, open_tofu
from quail_lightning.errors import InputError

TREE = {"question": "Which tree?", "answer": "oak"}
BIRD = {"question": "Which bird?", "answer": "owl", "wrong": ["rook", "tern"]}


def written(folder, *rows, name="own.jsonl"):
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def read(path):
    return [asked for _, asked in read_answered(path)]


def test_questions_with_and_without_wrong_answers_stand_in_one_file(tmp_path):
    fish = {"question": " Which fish?\n", "answer": " eel", "paraphrased_answer": "It is an eel. ", "wrong": None}
    assert read(written(tmp_path, TREE, BIRD, fish)) == [
        AnsweredQuestion("Which tree?", "oak", None, ()),
        AnsweredQuestion("Which bird?", "owl", None, ("rook", "tern")),
        AnsweredQuestion("Which fish?", "eel", "It is an eel.", ()),
    ]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["rook", " tern "], ("rook", "tern")),
        ("rook", ("rook",)),
        ("rook, or a tern", ("rook, or a tern",)),
        ("['rook', 'tern']", ("rook", "tern")),
        ('["rook", "tern, the arctic one"]', ("rook", "tern, the arctic one")),
    ],
)
def test_wrong_answers_are_a_list_the_text_of_one_or_a_single_text(tmp_path, wrong, expected):
    (asked,) = read(written(tmp_path, BIRD | {"wrong": wrong}))
    assert asked.wrong == expected


def test_a_table_has_empty_cells_where_json_has_no_field(tmp_path):
    lines = [
        "question,answer,wrong,paraphrased_answer",
        "Which tree?,oak,,",
        'Which bird?,owl,"[""rook"", ""tern""]",',
    ]
    assert read(written(tmp_path, *lines, "Which fish?,eel,cod,It is an eel.", name="own.csv")) == [
        AnsweredQuestion("Which tree?", "oak", None, ()),
        AnsweredQuestion("Which bird?", "owl", None, ("rook", "tern")),
        AnsweredQuestion("Which fish?", "eel", "It is an eel.", ("cod",)),
    ]


def test_parquet_holds_lists(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [TREE | {"wrong": None}, BIRD]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "own.parquet")
    assert [asked.wrong for asked in read(tmp_path / "own.parquet")] == [(), ("rook", "tern")]


def test_a_file_of_tofu_is_one_of_own_questions(tmp_path):
    row = TREE | {"paraphrased_answer": "an oak", "perturbed_answer": ["an elm", "an ash"]}
    path = written(tmp_path, row, name="forget10_perturbed.json")
    assert tuple(read(path)) == answered_questions(open_tofu(str(tmp_path)), path.stem)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"question": None}, "has the wrong form"),
        ({"question": " "}, "has the wrong form"),
        ({"answer": 7}, "has the wrong form"),
        ({"answer": ""}, "has the wrong form"),
        ({"paraphrased_answer": " "}, "has the wrong form"),
        ({"paraphrased_answer": ["owl"]}, "has the wrong form"),
        ({"wrong": []}, "wrong is no list of wrong answers"),
        ({"wrong": "[]"}, "wrong is no list of wrong answers"),
        ({"wrong": ""}, "wrong is no list of wrong answers"),
        ({"wrong": " "}, "wrong is no list of wrong answers"),
        ({"wrong": ["rook", ""]}, "wrong is no list of wrong answers"),
        ({"wrong": ["rook", 3]}, "wrong is no list of wrong answers"),
        ({"wrong": 3}, "wrong is no list of wrong answers"),
        ({"wrong": {"a": "rook"}}, "wrong is no list of wrong answers"),
        (
            {"wrong": "['rook' 'tern']"},
            "wrong is no list of wrong answers; got 'a text that cannot be read as one",
        ),
        ({"wrong": "[rook, tern]"}, "wrong is no list of wrong answers"),
        ({"wrong": ["rook", "OWL "]}, "a wrong answer is the right one"),
        ({"paraphrased_answer": "a rook", "wrong": ["a  rook"]}, "a wrong answer is the right one"),
        ({"wrong": ["rook", "Rook"]}, "two of the wrong answers are the same"),
        ({"perturbed_answer": ["rook"]}, "wrong and perturbed_answer are two names of one field"),
        ({"question": "which  TREE?"}, r"the question stands in \S+own\.jsonl, line 1 already"),
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_with_its_line_and_without_its_words(tmp_path, changed, said):
    with pytest.raises(InputError, match=rf"own\.jsonl, line 2:? {said}") as refused:
        read_answered(written(tmp_path, TREE, BIRD | changed))
    assert not [word for word in ("rook", "tern", "owl") if word in str(refused.value).lower()]


@pytest.mark.parametrize("row", ["3", "null", '"Which bird?"', "[1]"])
def test_what_is_no_record_is_refused_with_its_line(tmp_path, row):
    with pytest.raises(InputError, match=r"own\.jsonl, line 2 has the wrong form"):
        read_answered(written(tmp_path, TREE, row))


def test_broken_json_an_empty_file_and_none_at_all_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"own\.jsonl, line 2, column \d+: not valid JSON"):
        read_answered(written(tmp_path, TREE, '{"question": Which bird?}'))
    with pytest.raises(InputError, match=r"none\.jsonl holds no record"):
        read_answered(written(tmp_path, name="none.jsonl"))
    with pytest.raises(InputError, match=r"no file \S+nosuch\.jsonl"):
        read_answered(tmp_path / "nosuch.jsonl")
    with pytest.raises(InputError, match=r"own\.csv, line 2 has the wrong form"):
        read_answered(written(tmp_path, "query,answer", "Which tree?,oak", name="own.csv"))


def test_a_question_that_is_to_be_forgotten_and_kept_is_refused_with_both_lines(tmp_path):
    forget = read_answered(written(tmp_path, TREE, BIRD, name="forget.jsonl"))
    other = {"question": "Which fish?", "answer": "eel"}
    retain = read_answered(
        written(tmp_path, other, {"question": "which bird? ", "answer": "rook"}, name="keep.jsonl")
    )
    said = (
        r"keep\.jsonl, line 2: the question is to be kept, and in \S+forget\.jsonl, line 2 to be forgotten.*1 such"
    )
    with pytest.raises(InputError, match=said):
        check_apart(forget, retain)
    check_apart(forget, retain[:1])


def test_one_record_has_no_interval(tmp_path):
    with pytest.raises(InputError, match=r"own\.jsonl holds a single question, of which no interval can be had"):
        check_enough(read_answered(written(tmp_path, TREE)), "own.jsonl")
    two = read_answered(written(tmp_path, TREE, BIRD))
    with pytest.raises(InputError, match=r"line 2: the only one of 2 questions with wrong answers"):
        check_enough(two, "own.jsonl")
    more = read_answered(written(tmp_path, TREE | {"wrong": "elm"}, BIRD))
    check_enough(more, "own.jsonl")
    check_enough(read_answered(written(tmp_path, TREE, TREE | {"question": "Which one?"})), "own.jsonl")
