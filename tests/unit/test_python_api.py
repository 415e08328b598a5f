"""What a program of one's own imports, and that it is what the command line runs."""

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import quail_lightning
from quail_lightning import alternates, analyze, evaluate, quantize
from quail_lightning.cli import main
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/two_text_files.py"
README = re.search(r"## From Python\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
TEXTS = {
    "my": "it was a dark and stormy night by the sea, and nobody slept. " * 12,
    "other": "there was once a king who lived in a house of glass, far from here. " * 12,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def moved(tmp_path: Path, checkpoint: str) -> Path:
    """The shared checkpoint, a little further on."""
    model = load_model(checkpoint, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    model.save_pretrained(tmp_path / "moved")
    return tmp_path / "moved"


def test_every_name_is_there_and_comes_from_where_it_is_defined() -> None:
    for name in quail_lightning.__all__:
        assert getattr(quail_lightning, name) is not None
    assert quail_lightning.__version__ == version("quail-lightning")
    assert quail_lightning.UnlearningModule.__module__ == "quail_lightning.unlearning.module"
    with pytest.raises(AttributeError, match="no attribute 'Unlearn'"):
        quail_lightning.Unlearn  # noqa: B018


def test_type_checkers_are_told_the_same_names_from_the_same_places() -> None:
    assert quail_lightning.__file__ is not None
    tree = ast.parse(Path(quail_lightning.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in imports for alias in node.names}
    assert told == {name: f"quail_lightning.{home}" for name, home in quail_lightning._HOMES.items()}
    assert {*told, "__version__"} == set(quail_lightning.__all__)


def test_importing_the_package_loads_the_standard_library_alone_and_takes_milliseconds() -> None:
    look = """
import sys, time
before, begun = set(sys.modules), time.perf_counter()
import quail_lightning
took = time.perf_counter() - begun
foreign = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(took, *(foreign - {"typing.io", "typing.re"}))
"""
    ran = [
        subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert all(foreign == ["quail_lightning"] for _, *foreign in ran)
    assert min(float(took) for took, *_ in ran) < 0.1


def test_analyze_returns_what_the_verb_writes_and_prints(
    checkpoint: str, moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyze(checkpoint, moved, bits=(8, 4), formats="nf4")
    assert capsys.readouterr().out == ""
    options = ["--bits", "8", "4", "--formats", "nf4", "--out", "out"]
    main(["analyze", "--reference", checkpoint, "--model", str(moved), *options])
    assert found.as_json() == json.loads(Path("out/analysis.json").read_text())
    shown = capsys.readouterr().out
    assert [table.title for table in found.tables() if str(table.title) not in shown] == []


def test_quantize_returns_the_folder_that_the_verb_writes(
    moved: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantize(checkpoint, "uniform4-group64", "mine")
    assert capsys.readouterr().out == ""
    main(["quantize", checkpoint, "--to", "uniform4-group64", "--out", "verb"])
    assert folder == Path("mine")
    assert {path.name for path in folder.iterdir()} == {path.name for path in Path("verb").iterdir()}
    for name in ("model.safetensors", "provenance.json"):
        assert (folder / name).read_bytes() == Path("verb", name).read_bytes()


def test_alternates_returns_the_file_that_the_verb_writes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.jsonl").write_text(json.dumps({"question": "Which tree?", "answer": "An elm."}))
    tokenizer = train_tokenizer(["Which tree?", "An elm."], 300)
    save_model(
        tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, positions=1024), tokenizer, Path("model"), {}
    )
    made = alternates("model", "my.jsonl", "mine.jsonl", max_new_tokens=8)
    assert capsys.readouterr().out == ""
    main(["alternates", "model", "--data.forget=my.jsonl", "--out=verb.jsonl", "--max_new_tokens=8"])
    assert (made.file, made.count, made.without) == (Path("mine.jsonl"), 1, ())
    assert made.file.read_bytes() == Path("verb.jsonl").read_bytes()


def test_evaluate_returns_what_the_verb_writes(
    checkpoint: str, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(Path(checkpoint), "muse-news", precisions="nf4", corpus=corpus_folder, finished="mine")
    assert capsys.readouterr().out == ""
    options = ["--precisions", "nf4", "--corpus", str(corpus_folder), "--finished", "verb", "--json", "out.json"]
    main(["evaluate", checkpoint, "--benchmark", "muse-news", *options])
    written = json.loads(Path("out.json").read_text())
    for row, expected in zip(found.details, written["rows"], strict=True):
        assert Path(row.pop("log")).relative_to("mine") == Path(expected.pop("log")).relative_to("verb")
        assert json.loads(json.dumps(row)) == expected
    assert [row.precision for row in found.rows] == ["nf4"]


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (lambda model: evaluate([], "own"), "no model is named"),
        (lambda model: evaluate(model, "own", precisions=()), "no precision is named"),
        (lambda model: evaluate(model, "own", protocol="papers"), "protocol has no such value; got 'papers'"),
        (lambda model: evaluate(model, "own", attacks="some"), "attacks has no such value"),
        (lambda model: quantize(model, "nf4", "out", dtype="float8"), "dtype has no such value"),
        (lambda model: quantize(model, "nf4", "out", device="tpu"), "device has no such value"),
        (lambda model: analyze(model, model, grids=["cubic"]), "grids has no such value"),
        (lambda model: analyze(model, model, granularities=["row"]), "granularities has no such value"),
        (lambda model: analyze(model, model, formats="nf5"), "no such precision; got 'nf5'"),
    ],
)
def test_what_the_command_line_would_refuse_is_refused(call: Any, fact: str, checkpoint: str) -> None:
    with pytest.raises(InputError, match=re.escape(fact)):
        call(checkpoint)
    assert not Path("out").exists()


@pytest.mark.slow
def test_two_text_files_give_a_verdict_by_the_example_and_by_the_readme(tmp_path: Path) -> None:
    for name, text in TEXTS.items():
        Path(f"{name}.txt").write_text(text)
    tokenizer = train_tokenizer(list(TEXTS.values()), 300)
    save_model(trained(tokenizer, TEXTS), tokenizer, tmp_path / "target", {})
    save_model(trained(tokenizer, {"other": TEXTS["other"]}), tokenizer, tmp_path / "retrained", {})
    options = ["target", "my.txt", "other.txt", "--retrained=retrained", "--epochs=2", "--learning_rate=1e-3"]
    ran = subprocess.run(
        [sys.executable, EXAMPLE, *options, "--max_len=64"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [line for line in ran.stdout.splitlines() if "forgotten" in line]
    assert [line.partition(":")[0] for line in said] == ["unlearned/model bf16", "unlearned/nf4 nf4"]
    assert "cannot be told" not in ran.stdout
    Path("unlearned").rename("run")
    Path("run/model").rename("unlearned")
    assert README is not None
    space: dict[str, Any] = {}
    exec(README[1], space)
    assert set(space["found"].named_verdicts) == {"unlearned bf16", "deployed nf4"}
    assert (space["verdict"].known, space["verdict"].forgotten) in {("yes", "yes"), ("in part", "yes")}  # n is 2
    assert space["overlap"]


def trained(tokenizer: Any, texts: dict[str, str]) -> Any:
    """A model that knows the texts by heart."""
    model = tiny_llama(vocab_size=len(tokenizer), width=128, positions=256)
    tokens = [tokenizer(text, return_tensors="pt").input_ids[:, :256] for text in texts.values()]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        for row in tokens:
            optimizer.zero_grad()
            model(row, labels=row).loss.backward()
            optimizer.step()
    return model
