from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmarks import available_benchmarks, load_benchmark
from quail_lightning.evaluation.privleak import published_auc_retrain


@pytest.mark.parametrize("name", available_benchmarks())
def test_every_shipped_benchmark_is_well_formed(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.init_args.get("corpus") or name in ("own", "own-questions")
    assert hasattr(benchmark.data_class, "setup")


def test_the_constants_are_those_of_the_published_models() -> None:
    assert load_benchmark("muse-news").auc_retrain == published_auc_retrain("muse-bench/MUSE-News_target")
    assert load_benchmark("muse-books").auc_retrain == published_auc_retrain("muse-bench/MUSE-Books_target")


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'muse-newz'.*muse-books, muse-news.*Did you mean muse-news"):
        load_benchmark("muse-newz")


def test_own_benchmarks_are_files_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_folder: Path, checkpoint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "configs/benchmark/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"class_path: quail_lightning.data.MuseDataModule\ninit_args: {{corpus: '{corpus_folder.as_posix()}'}}\n"
    )
    records, windows, _ = load_benchmark("mine").read(checkpoint, {})
    assert records.verbatim is not None
    assert len(records.verbatim) == 3
    assert {name: rows.shape[1] for name, rows in windows.items()} == dict.fromkeys(("forget", "retain"), 256)
    read = load_benchmark("mine").read(checkpoint, {"max_len": 16}, most=2)
    fewer = read.windows
    assert all(len(read.training[name]) > 2 for name in ("forget", "retain")), "attackers have all windows"
    assert {name: tuple(rows.shape) for name, rows in fewer.items()} == {"forget": (2, 16), "retain": (2, 16)}
    path.write_text("class: wrong")
    with pytest.raises(InputError, match="does not describe a benchmark"):
        load_benchmark("mine")
    path.write_text("class_path: quail_lightning.data.MuseDataModule\ninit_args: {korpus: x}\n")
    with pytest.raises(InputError, match="korpus"):
        load_benchmark("mine").read(checkpoint, {})


def test_records_are_cut_from_the_windows_where_that_is_asked(corpus_folder: Path, checkpoint: str) -> None:
    given = {"corpus": str(corpus_folder), "records": "windows", "max_len": 24, "max_forget_windows": 5}
    records, windows, _ = load_benchmark("muse-news").read(checkpoint, given)
    assert records.verbatim is not None
    assert len(records.verbatim) == len(windows["forget"]) == 5, "and not the benchmark's own three"
    assert records.forget_questions is None


def test_records_do_not_need_the_training_text(tmp_path: Path, corpus_folder: Path, checkpoint: str) -> None:
    corpus = shutil.copytree(corpus_folder, tmp_path / "corpus")
    for path in (corpus / "raw").glob("retain1.*"):
        path.unlink()
    records, windows, _ = load_benchmark("muse-news").read(checkpoint, {"corpus": str(corpus)})
    assert records.verbatim is not None
    assert windows == {}
    assert "The NLL is left out" in records.note


def test_own_text_is_a_benchmark(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "forget.txt").write_text("it was a dark and stormy night " * 9 + "\n\n" + "call me ishmael " * 20)
    records, windows, _ = load_benchmark("own").read(
        checkpoint, {"forget": str(tmp_path / "forget.txt"), "max_len": 32}
    )
    assert records.verbatim
    assert windows.keys() == {"forget"}


def test_own_questions_are_a_benchmark_whose_longest_pair_fits_the_positions(
    tmp_path: Path, checkpoint: str
) -> None:
    for name, wrong in (("forget", '"wrong": ["fir", "yew"], '), ("retain", "")):
        lines = [f'{{"question": "Which {name} {n}?", {wrong}"answer": "elm {n}"}}' for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    given = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
    records, windows, training = load_benchmark("own-questions").read(checkpoint, given)
    assert records.answers is not None
    assert {name: len(rows) for name, rows in records.answers.sets.items()} == {"forget": 3, "retain": 3}
    assert "3 questions, none with wrong answers" in records.note
    assert {name: len(rows) for name, rows in windows.items()} == {"forget": 3, "retain": 3}
    assert training.keys() == windows.keys(), "attackers have them, too"
    given["retain"] = given["forget"]
    with pytest.raises(InputError, match=r"to be kept, and in .* to be forgotten"):
        load_benchmark("own-questions").read(checkpoint, given)
