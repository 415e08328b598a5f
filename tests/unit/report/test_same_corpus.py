"""Runs are compared where the same was asked of the same models."""

from pathlib import Path

import pytest
from fabricated_run import config, fabricate

from quail_lightning.errors import InputError
from quail_lightning.report.finished_run import read_run
from quail_lightning.report.same_corpus import check_same_corpus, notes_on


def test_what_belongs_to_the_method_may_differ(tmp_path: Path) -> None:
    one = fabricate(tmp_path / "one")
    other = fabricate(
        tmp_path / "other",
        configured=config(batch_size=32) | {"model": {"target": "moved/target", "alpha": 5.0}},
        settings={"suite": {"batch_size": 64, "max_prompts": None}, "arithmetic": "float32"},
    )
    runs = [read_run(one), read_run(other)]
    check_same_corpus(runs)
    (note,) = notes_on(runs)
    assert note == f"The arithmetic differs: {one}: bfloat16; {other}: float32."
    assert notes_on(runs[:1]) == []


DIFFERING = {
    "data.corpus": {"configured": config(corpus="elsewhere")},
    "data.forget": {"configured": config(forget=["raw/other"])},
    "evaluation.retrained": {"settings": {"retrained": "other/retrained"}},
    "evaluation.max_windows": {"settings": {"max_windows": 8}},
    "evaluation.suite.max_prompts": {"settings": {"suite": {"batch_size": 8, "max_prompts": 2}}},
    "records_sha256": {"settings": {"records_sha256": "00" * 32}},
    "target_sha256": {"provenance": {"target_sha256": {"model.safetensors": "00" * 32}}},
    "texts_sha256": {"provenance": {"texts_sha256": {"forget": "00" * 32}}},
    "model.target": {  # one run noted no digest, so the names count
        "configured": config() | {"model": {"target": "other/target"}},
        "provenance": {"target_sha256": None},
    },
}


@pytest.mark.parametrize("setting", DIFFERING)
def test_what_makes_figures_incomparable_is_refused_by_name(setting: str, tmp_path: Path) -> None:
    one = read_run(fabricate(tmp_path / "one"))
    other = read_run(fabricate(tmp_path / "other", **DIFFERING[setting]))
    with pytest.raises(InputError, match="cannot be compared") as refused:
        check_same_corpus([one, other])
    assert f"{setting} is " in str(refused.value)
    assert f"in {one.folder}" in str(refused.value)
    assert f"in {other.folder}" in str(refused.value)
    assert "quail test --model.start" in str(refused.value)


def test_without_scores_nothing_is_compared_but_one_run_may_be_shown(tmp_path: Path) -> None:
    runs = [read_run(fabricate(tmp_path / "one"))]
    (fabricate(tmp_path / "other") / "scores.json").unlink()
    alone = read_run(tmp_path / "other")
    check_same_corpus([alone])
    with pytest.raises(InputError, match=r"without the run's scores\.json"):
        check_same_corpus([*runs, alone])
