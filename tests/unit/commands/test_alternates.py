"""`quail alternates`: a file that AltPO trains on, written by the model, or none."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch

from quail_lightning.cli import main
from quail_lightning.commands import alternates as command
from quail_lightning.commands.alternates import alternates, usable_alternates
from quail_lightning.data import OwnTextDataModule
from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError, RunError
from quail_lightning.inference.generation import generate
from quail_lightning.models.checkpoint import save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.terminal import Bar

PAIRS = [{"question": f"Which tree is {n}?", "answer": f"An elm of {n} years."} for n in range(5)]
QUESTIONS = [Question(**pair) for pair in PAIRS]


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> str:
    """A random Llama with room for the worked examples."""
    tokenizer = train_tokenizer([f"{pair['question']} {pair['answer']}" for pair in PAIRS], vocab_size=300)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, heads=2, positions=1024, seed=1)
    folder = tmp_path_factory.mktemp("models") / "target"
    save_model(model, tokenizer, folder, {})
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_model", lambda *_: pytest.fail("a model is loaded"))


def answering(monkeypatch: pytest.MonkeyPatch, *draws: list[str]) -> list[list[str]]:
    """Let the model give these responses, a list a draw; what it was asked each time."""
    asked: list[list[str]] = []

    def fake(_model, _tokenizer, prompts, *_):
        asked.append([prompt.rsplit("Question: ", 1)[1].split("\n")[0] for prompt in prompts])
        return draws[len(asked) - 1]

    monkeypatch.setattr(command, "generate", fake)
    return asked


def written(file: str = "out.jsonl") -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def test_the_verb_writes_each_pair_with_an_alternate_that_altpo_reads(target, capsys):
    main(["alternates", target, "--data.forget", "my.jsonl", "--out", "made/out.jsonl", "--max_new_tokens", "8"])
    records = written("made/out.jsonl")
    assert [{name: record[name] for name in ("question", "answer")} for record in records] == PAIRS
    assert all(set(record) == {"question", "answer", "alternate"} for record in records)
    assert capsys.readouterr().out.startswith("saved: made/out.jsonl (5 of 5 pairs have an alternate answer)\n")
    data = OwnTextDataModule("made/out.jsonl", tokenizer=target, alternates="column", max_len=128)
    data.setup("fit")
    assert data.served.trained.forget.shape[:2] == (5, 2)


def test_only_its_owner_can_read_the_file_whatever_the_umask(target, monkeypatch):
    answering(monkeypatch, ["Oak"] * 5)
    before = os.umask(0)
    try:
        alternates(target, "my.jsonl", "out.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("out.jsonl").stat().st_mode) == 0o600


def test_the_seed_decides_and_the_batch_does_not(target, monkeypatch):
    monkeypatch.setenv("QUAIL_ARITHMETIC", "float32")
    found = {}
    for name, seed, rows in (("a", 1, 1), ("b", 1, 3), ("c", 2, 3)):
        alternates(target, "my.jsonl", f"{name}.jsonl", seed=seed, batch_size=rows, max_new_tokens=8)
        found[name] = written(f"{name}.jsonl")
    assert found["a"] == found["b"]
    assert not {record["alternate"] for record in found["b"]} & {record["alternate"] for record in found["c"]}


def test_no_draw_of_a_seed_repeats_another_draw_or_another_seed(target, monkeypatch):
    seeds = []

    def fake(_model, _tokenizer, prompts, *others):
        seeds.append(others[-1].seed)
        return [""] * len(prompts)

    monkeypatch.setattr(command, "generate", fake)
    for seed in range(3):
        with pytest.raises(RunError):
            alternates(target, "my.jsonl", "out.jsonl", seed=seed, draws=4)
    assert len(set(seeds)) == len(seeds) == 12


def test_temperature_and_length_reach_the_model(target, monkeypatch):
    responses: list[list[str]] = []

    def kept(*arguments):
        responses.append(generate(*arguments))
        return ["Oak"] * 5

    monkeypatch.setattr(command, "generate", kept)
    runs = [(1e-4, 1, 8), (1e-4, 2, 8), (1.0, 1, 8), (1.0, 1, 4)]
    for number, (temperature, seed, length) in enumerate(runs):
        options = {"temperature": temperature, "seed": seed, "max_new_tokens": length}
        alternates(target, "my.jsonl", f"{number}.jsonl", **options)
    cold, again, warm, short = responses
    assert cold == again != warm  # nothing is left to chance
    assert all(long.startswith(cut) and len(long) > len(cut) for long, cut in zip(warm, short, strict=True))


def test_those_without_a_usable_answer_alone_are_asked_again(target, monkeypatch, capsys):
    first = ["Oak", "", " an elm of 2 YEARS\n\nNote", "Yew", "An elm of 4 years."]
    asked = answering(
        monkeypatch, ["Oak", *first[1:2], "an elm of 2 YEARS", "Yew", first[4]], ["", "Fir", "Ash"], ["Rowan"]
    )
    main(["alternates", target, "--data.forget", "my.jsonl", "--out", "out.jsonl"])
    questions = [pair["question"] for pair in PAIRS]
    assert asked == [questions, [questions[1], questions[2], questions[4]], [questions[1]]]
    assert [record["alternate"] for record in written()] == ["Oak", "Rowan", "Fir", "Yew", "Ash"]
    assert "no usable" not in capsys.readouterr().out


def test_a_pair_without_an_alternate_stays_is_counted_and_is_refused_by_training(target, monkeypatch, capsys):
    answering(monkeypatch, ["Oak", "", "Fir", "an elm of 3 years", "Ash"], ["", ""])
    main(["alternates", target, "--data.forget", "my.jsonl", "--out", "out.jsonl", "--draws", "2"])
    assert [record["alternate"] for record in written()] == ["Oak", "", "Fir", "", "Ash"]
    said = capsys.readouterr().out
    assert "(3 of 5 pairs have" in said
    assert "2 got no usable one in 2 draws" in said
    assert "from 0: 1, 3\n" in said
    with pytest.raises(InputError, match=r"pair 1 of out\.jsonl has no alternate answer"):
        OwnTextDataModule("out.jsonl", alternates="column").check()


def test_where_no_pair_gets_one_nothing_is_written(target, monkeypatch, capsys):
    answering(monkeypatch, *[[""] * 5] * 3)
    with pytest.raises(SystemExit) as ended:
        main(["alternates", target, "--data.forget", "my.jsonl", "--out", "made/out.jsonl", "--draws", "3"])
    assert ended.value.code == 1
    assert "no usable alternate answer to any of 5 questions, in 3 draws" in capsys.readouterr().err
    assert not Path("made").exists()


def test_a_pair_is_asked_no_more_often_than_it_may_be():
    asked = []
    assert usable_alternates(lambda numbers, draw: asked.append((numbers, draw)) or [""], QUESTIONS[:1], 4) == [""]
    assert asked == [([0], draw) for draw in range(4)]


def test_a_file_that_appears_meanwhile_is_kept(target, monkeypatch):
    def fake(*_):
        Path("out.jsonl").write_text("another's")
        return ["Oak"] * 5

    monkeypatch.setattr(command, "generate", fake)
    with pytest.raises(InputError, match=r"out out\.jsonl exists already"):
        alternates(target, "my.jsonl", "out.jsonl")
    assert Path("out.jsonl").read_text() == "another's"


def test_a_write_that_fails_leaves_no_file(target, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    answering(monkeypatch, ["Oak"] * 5)
    monkeypatch.setattr("quail_lightning.storage.durable.sync", full)
    with pytest.raises(OSError, match="No space"):
        alternates(target, "my.jsonl", "out.jsonl")
    assert [path.name for path in Path().iterdir()] == ["my.jsonl"]


def test_the_bar_is_there_before_the_first_batch_and_follows_it(target, monkeypatch):
    shown = []
    monkeypatch.setattr(
        Bar, "show", lambda _, what, done, total: shown.append((what.split(" · ")[1], done, total))
    )
    alternates(target, "my.jsonl", "out.jsonl", batch_size=2, max_new_tokens=8)
    assert shown[:4] == [("draw 1 of at most 5", done, 5) for done in (0, 2, 4, 5)]


def test_it_computes_as_the_evaluation_does(target, monkeypatch):
    dtypes = []

    def fake(model, *_):
        dtypes.append(model.dtype)
        return ["Oak"] * 5

    monkeypatch.setattr(command, "generate", fake)
    for number, arithmetic in enumerate(("float32", "stored")):
        monkeypatch.setenv("QUAIL_ARITHMETIC", arithmetic)
        alternates(target, "my.jsonl", f"{number}.jsonl", device="cpu")
    assert dtypes == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("nowhere --data.forget my.jsonl --out out.jsonl", "no model could be loaded from 'nowhere'"),
        ("target --data.forget none.jsonl --out out.jsonl", "none.jsonl"),
        ("target --data.forget prose.txt --out out.jsonl", "the forget file holds none; got 'prose.txt'"),
        ("target --data.forget texts.jsonl --out out.jsonl", "the forget file holds none; got 'texts.jsonl'"),
        ("target --data.forget half.jsonl --out out.jsonl", "half.jsonl, line 1 has the wrong form"),
        ("target --data.forget blank.jsonl --out out.jsonl", "pair 0 of blank.jsonl has an empty answer"),
        ("target --data.forget my.jsonl --out my.jsonl", "out my.jsonl exists already"),
        ("target --data.forget my.jsonl --out broken.jsonl", "out broken.jsonl exists already"),
        ("target --data.forget my.jsonl --out out.txt", "out is a file of JSON lines; got 'out.txt'"),
        ("target --data.forget my.jsonl --out prose.txt/out.jsonl", "the folder of out names a file"),
        ("target --data.forget my.jsonl --out out.jsonl --temperature 0", "temperature must be positive"),
        ("target --data.forget my.jsonl --out out.jsonl --temperature -1", "temperature must be positive"),
        ("target --data.forget my.jsonl --out out.jsonl --temperature inf", "temperature"),
        ("target --data.forget my.jsonl --out out.jsonl --draws 0", "draws must be at least 1; got 0"),
        ("target --data.forget my.jsonl --out out.jsonl --batch_size 0", "batch_size must be at least 1; got 0"),
        ("target --data.forget my.jsonl --out out.jsonl --max_new_tokens 0", "max_new_tokens must be at least 1"),
        ("target --data.forget my.jsonl --out out.jsonl --max_new_tokens 1000", "Set max_new_tokens lower"),
        ("target --data.forget my.jsonl --out out.jsonl --data.chat always", "no chat template"),
        ("target --data.forget my.jsonl --out out.jsonl --data.chat maybe", "data.chat does not fit; got maybe"),
        ("target --data.forget my.jsonl --out out.jsonl --device nosuch", "no such device; got 'nosuch'"),
        ("target --out out.jsonl", "quail alternates TARGET --data.forget my.jsonl --out"),
    ],
)
def test_wrong_inputs_are_refused_before_the_model_is_loaded(options, said, target, unloaded, capsys):
    Path("target").symlink_to(target)
    Path("broken.jsonl").symlink_to("gone")
    Path("prose.txt").write_text("Just text.")
    Path("texts.jsonl").write_text(json.dumps(PAIRS[0] | {"text": "Just text."}))
    Path("half.jsonl").write_text(json.dumps({"question": "Who?"}))
    Path("blank.jsonl").write_text(json.dumps({"question": "Who?", "answer": " "}))
    before = sorted(Path().iterdir())
    with pytest.raises(SystemExit) as ended:
        main(["alternates", *options.split()])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before


def test_python_is_refused_what_the_command_line_would_be(target, unloaded):
    with pytest.raises(InputError, match="chat has no such value; got 'maybe'"):
        alternates(target, "my.jsonl", "out.jsonl", chat="maybe")
    with pytest.raises(InputError, match="temperature must be positive and finite; got nan"):
        alternates(target, "my.jsonl", "out.jsonl", temperature=float("nan"))
