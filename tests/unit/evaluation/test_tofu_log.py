"""Published logs of TOFU: the aggregates of the benchmark's own script, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hmean, ks_2samp

from quail_lightning.cli import main
from quail_lightning.errors import InputError
from quail_lightning.evaluation.tofu_log import AGGREGATES, PARTS, read_published_log

EXCERPT = json.loads((Path(__file__).parent / "tofu_log_excerpt.json").read_text())
"""The first six records of each set of two published logs: phi-1.5 taught all of TOFU, and retain90 alone."""
SAMPLE = Path(__file__).parents[4] / "shared/tofu/log_sample"
FULL, RETRAINED = EXCERPT["phi_full"], EXCERPT["phi_retain90"]


def expected(log: Any, retrained: Any) -> dict[str, float]:
    """What ``aggregate_eval_stat.py`` of the benchmark computes, formula by formula."""
    names = {"forget": "Forget", "retain": "Retain", "real_authors": "Real Authors", "world_facts": "Real World"}

    def lists(of: str, source: Any) -> list[Any]:
        keys = ("avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss", "rougeL_recall")
        return [np.array(list(source[PARTS[of]][key].values()), dtype=np.float64) for key in keys]

    found: dict[str, float] = {}
    for of, name in names.items():
        true, wrong, paraphrased, recall = lists(of, log)
        found[f"ROUGE {name}"] = float(recall.mean())
        probability = np.exp(-true)
        if of in ("real_authors", "world_facts"):
            probability = probability / (probability + np.exp(-wrong).sum(1))
        found[f"Prob. {name}"] = float(probability.mean())
        ratio = np.exp(wrong.mean(1) - paraphrased)
        score = np.minimum(ratio, 1 / ratio) if of == "forget" else np.maximum(0, 1 - 1 / ratio)
        found[f"Truth Ratio {name}"] = float(score.mean())
    found["Model Utility"] = float(hmean([value for name, value in found.items() if "Forget" not in name]))
    sides = [
        np.exp(wrong.mean(1) - own) for _, wrong, own, _ in (lists("forget", log), lists("forget", retrained))
    ]
    found["Forget Quality"] = float(ks_2samp(*sides).pvalue)
    return found


def scored(folder: Path, log: Any, retrained: Any = None, *further: str) -> dict[str, Any]:
    arguments = ["evaluate", "--benchmark", "tofu", "--json", str(folder / "figures.json"), *further]
    for option, content in (("--from-log", log), ("--retrained-log", retrained)):
        if content is not None:
            path = folder / f"{option.strip('-')}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            arguments += [option, str(path)]
    main(arguments)
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return found


def test_aggregates_have_the_benchmarks_names_and_values(tmp_path: Path) -> None:
    found = scored(tmp_path, FULL, RETRAINED)
    for name, value in expected(FULL, RETRAINED).items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name
        assert found["aggregates"][name] == found[name]
    assert found["aggregates"].keys() == AGGREGATES.keys()


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the published logs are not beside the repository")
def test_the_published_logs_give_the_published_aggregates(tmp_path: Path) -> None:
    said = json.loads((SAMPLE / "expected.json").read_text())
    logs = [(SAMPLE / f"{said[name]}.json").read_text() for name in ("model", "retain")]
    found = scored(tmp_path, *logs)
    assert len(said["aggregates"]) == 14
    for name, value in said["aggregates"].items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=0), name


def test_without_a_retrained_log_forget_quality_is_left_out_and_it_is_said(tmp_path: Path) -> None:
    found = scored(tmp_path, FULL)
    assert "Forget Quality" not in found
    assert found["Model Utility"] == pytest.approx(expected(FULL, RETRAINED)["Model Utility"], abs=1e-12)
    assert any("--retrained-log" in note for note in found["notes"])


def test_the_scripts_folder_of_four_files_is_the_same_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for name, content in FULL.items():
        (tmp_path / "log" / name).write_text(json.dumps(content))
    (tmp_path / "log.json").write_text(json.dumps(FULL))
    assert read_published_log(tmp_path / "log") == read_published_log(tmp_path / "log.json")


def test_open_unlearnings_layout_gives_the_same_figures(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    for of, prefix in (("forget", "forget"), ("retain", "retain"), ("real_authors", "ra"), ("world_facts", "wf")):
        part = FULL[PARTS[of]]
        for key, metric, field in (
            ("avg_gt_loss", "Q_A_Prob", "avg_loss"),
            ("avg_paraphrased_loss", "Q_A_PARA_Prob", "avg_loss"),
            ("average_perturb_loss", "Q_A_PERT_Prob", "avg_loss"),
            ("rougeL_recall", "Q_A_ROUGE", "rougeL_recall"),
        ):
            rows = {record: {field: value} for record, value in part[key].items()}
            content[f"{prefix}_{metric}"] = {"agg_value": 0.5, "value_by_index": rows}
    for prefix in ("ra", "wf"):
        del content[f"{prefix}_Q_A_PARA_Prob"]
    (tmp_path / "TOFU_EVAL.json").write_text(json.dumps(content))
    (tmp_path / "log.json").write_text(json.dumps(FULL))
    assert read_published_log(tmp_path / "TOFU_EVAL.json") == read_published_log(tmp_path / "log.json")
    del content["forget_Q_A_PERT_Prob"]["value_by_index"]["3"]["avg_loss"]
    (tmp_path / "TOFU_EVAL.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="forget_Q_A_PERT_Prob, record 3 lacks 'avg_loss'"):
        read_published_log(tmp_path / "TOFU_EVAL.json")


def changed(change: Any, part: str = "eval_log_forget.json") -> Any:
    content = json.loads(json.dumps(FULL))
    change(content[part], content)
    return content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda part, log: log.pop("eval_log.json"), r"lacks 'eval_log\.json'"),
        (
            lambda part, log: part.pop("avg_paraphrased_loss"),
            r"eval_log_forget\.json lacks 'avg_paraphrased",
        ),
        (lambda part, log: part["avg_gt_loss"].update({"2": math.nan}), r"avg_gt_loss, record 2 is not finite"),
        (
            lambda part, log: part["average_perturb_loss"]["4"].__setitem__(1, math.inf),
            r"average_perturb_loss, record 4 is not finite",
        ),
        (lambda part, log: part["rougeL_recall"].update({"1": None}), r"rougeL_recall, record 1 is no number"),
        (lambda part, log: part["rougeL_recall"].update({"1": 1.5}), r"rougeL_recall, record 1 is no fraction"),
        (
            lambda part, log: part["avg_paraphrased_loss"].pop("5"),
            r"avg_paraphrased_loss and avg_gt_loss are of different records.*5 and 6; record 5",
        ),
        (
            lambda part, log: part["average_perturb_loss"]["3"].pop(),
            r"average_perturb_loss, record 3 has 4 losses, and other records have 5",
        ),
        (lambda part, log: part["average_perturb_loss"].update({"0": 1.0}), r"record 0 is no list of losses"),
        (lambda part, log: part["average_perturb_loss"].update({"0": []}), r"record 0 is no list of losses"),
        (lambda part, log: part.update(avg_gt_loss={}), r"avg_gt_loss holds no records"),
    ],
)
def test_a_damaged_log_is_refused_by_key_and_record(tmp_path: Path, change: Any, said: str) -> None:
    (tmp_path / "log.json").write_text(json.dumps(changed(change)))
    with pytest.raises(InputError, match="(?s)" + said):
        read_published_log(tmp_path / "log.json")


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *given: Any) -> str:
    with pytest.raises(SystemExit):
        scored(folder, *given)
    assert not (folder / "figures.json").exists()
    return " ".join(capsys.readouterr().err.split())


def test_the_command_refuses_a_damaged_retrained_log(tmp_path: Path, capsys: Any) -> None:
    broken = changed(lambda part, log: part["avg_gt_loss"].update({"2": math.nan}))
    assert "retrained-log.json" in (said := refused(tmp_path, capsys, FULL, broken))
    assert "avg_gt_loss, record 2 is not finite" in said
    assert "not valid JSON" in refused(tmp_path, capsys, FULL, '{"eval_log.json": ')
    assert "holds no log of TOFU" in refused(tmp_path, capsys, "[1, 2]")


def test_fewer_records_than_the_test_needs_are_refused(tmp_path: Path, capsys: Any) -> None:
    def few(log: Any) -> Any:
        return {part: {key: dict(list(v.items())[:3]) for key, v in lists.items()} for part, lists in log.items()}

    assert "3 and 3 records are too few for the KS test" in refused(tmp_path, capsys, few(FULL), few(RETRAINED))


def test_a_retrained_log_alone_and_a_log_of_another_benchmark_are_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "log.json").write_text(json.dumps(FULL))
    for arguments, said in (
        (["x", "--benchmark", "tofu", "--retrained-log", str(tmp_path / "log.json")], "read beside --from-log"),
        (["--benchmark", "muse-news", "--from-log", str(tmp_path / "log.json")], "is no log folder of muse-news"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", *arguments])
        assert said in " ".join(capsys.readouterr().err.split())
