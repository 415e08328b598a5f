"""Utility figures, and the harness behind one import."""

import builtins
import copy
import json
import math
import sys
import types

import pytest
import torch
import yaml
from tokenizers.processors import TemplateProcessing

from quail_lightning.configuration.allowed_code import code_allowed
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite, generate
from quail_lightning.evaluation import harness as harness_module
from quail_lightning.evaluation.fluency import fluency
from quail_lightning.evaluation.harness import HarnessTask, HarnessTasks
from quail_lightning.evaluation.metrics import METRICS, label_of
from quail_lightning.evaluation.utility import Utility

NONE = EvaluationRecords()


@pytest.fixture
def roomy_model(model):
    """The conftest's model with room for 256 new tokens after a prompt."""
    model.config.max_position_embeddings = 512  # rotary positions have no table that would end
    return model


def forget_what_was_loaded():
    for kept in (harness_module._manager, harness_module._loaded, harness_module.task_digest):
        kept.cache_clear()


@pytest.fixture(autouse=True)
def forget_task_managers():
    """The harness's task manager is kept for the process; here each test has its own harness."""
    forget_what_was_loaded()
    yield
    forget_what_was_loaded()


def evaluate(model, tokenizer, **options):
    return EvaluationSuite(batch_size=2, utility=Utility(**options)).evaluate(model, tokenizer, NONE, {})


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"{n}?", "answer": f"a{n}"}) for n in range(9)))
    return str(path)


def test_what_was_not_asked_for_is_absent(model, tokenizer):
    assert EvaluationSuite(batch_size=2).evaluate(model, tokenizer, NONE, {}) == {}
    assert evaluate(model, tokenizer) == {}


def test_fac_asks_after_six_examples_and_own_questions_after_as_many_as_are_named(model, tokenizer, questions):
    found = evaluate(model, tokenizer, factual=questions, questions=questions, question_examples=2)
    assert found.keys() == {"utility_factual", "question_f1"}
    assert found["utility_factual"].n == 3
    assert found["question_f1"].n == 7
    limited = evaluate(model, tokenizer, factual=questions, limit=2)
    assert limited["utility_factual"].n == 2


def test_own_questions_score_what_the_model_says(model, tokenizer, tmp_path):
    said = generate(model, tokenizer, ["Question: Who?\nAnswer:"], 32, 1)[0].strip().partition("\n")[0].strip()
    (tmp_path / "q.json").write_text(json.dumps([{"question": "Who?", "answers": ["something else", said]}]))
    assert evaluate(model, tokenizer, questions=str(tmp_path / "q.json"))["question_f1"].value == pytest.approx(
        100
    )


def test_fluency_is_the_mean_entropy_of_the_answers(tmp_path, roomy_model, tokenizer):
    (tmp_path / "i.json").write_text(json.dumps([{"instruction": "Sing."}, {"instruction": "Sing."}]))
    found = evaluate(roomy_model, tokenizer, fluency=str(tmp_path / "i.json"))["utility_fluency"]
    said = generate(roomy_model, tokenizer, ["Instruction: Sing.\n"], 256, 1)[0]
    assert found.n == 1  # the same instruction once
    assert found.value == pytest.approx(fluency(said))


def test_perplexity_is_the_exponential_of_the_mean_nll(model, tokenizer, tmp_path):
    text = "Water runs down the hill and the hill stands still."
    (tmp_path / "t.txt").write_text(text)
    found = evaluate(model, tokenizer, text=str(tmp_path / "t.txt"), window=len(text) + 1)["perplexity"]
    ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    model.eval()
    with torch.no_grad():
        logs = model(input_ids=ids).logits.double().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
    assert found.value == pytest.approx(math.exp(-logs.mean().item()), rel=1e-5)


def test_everything_wrong_is_named_before_anything_runs(model, tokenizer, questions, tmp_path):
    (tmp_path / "few.json").write_text('[{"question": "a?", "answer": "b"}]')
    (tmp_path / "i.json").write_text('[{"text": "a"}]')
    cases = [
        ({"text": "nosuch.txt"}, "no file nosuch.txt"),
        ({"factual": str(tmp_path / "few.json")}, "no question beside its 6 worked examples"),
        ({"fluency": str(tmp_path / "i.json")}, "record 0 has the wrong form"),
        ({"fluency": "jinzhuoran/RWKU"}, "could not be loaded from the hub"),
    ]
    for options, said in cases:
        with pytest.raises(InputError, match=said):
            evaluate(model, tokenizer, **options)
    (tmp_path / "long.json").write_text(json.dumps([{"instruction": "x" * 250}]))
    with pytest.raises(InputError, match="utility_fluency: 1 of 1 prompts do not fit"):
        evaluate(model, tokenizer, fluency=str(tmp_path / "long.json"))
    with pytest.raises(InputError, match=r"utility\.limit must be at least 1; got 0"):
        Utility(limit=0)


def test_without_the_extra_the_harness_tasks_are_refused_with_the_remedy(model, tokenizer, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.partition(".")[0] == "lm_eval":
            raise ImportError("No module named 'lm_eval'")
        return real(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'quail-lightning\[eval\]'"):
        evaluate(model, tokenizer, general=True)
    suite = EvaluationSuite(
        forget_tasks=HarnessTasks(("wmdp_bio", "wmdp_cyber")), utility=Utility(tasks=("mmlu",))
    )
    with pytest.raises(InputError) as refused:  # without a model, and the remedy once
        suite.check_tasks()
    assert str(refused.value).count("pip install 'quail-lightning[eval]'") == 1
    EvaluationSuite(utility=Utility(text="any.txt")).check_tasks()


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for the harness that says how it was called."""
    called = {}

    class Task:
        def __init__(self, name):
            self.task_name, self.shots = name, None

        def aggregation(self):
            return {"acc": mean, "perplexity": other}

        def get_config(self, key):
            return {"num_fewshot": None, "output_type": "multiple_choice"}[key]

        def set_config(self, key, value):
            self.shots = value if key == "num_fewshot" else None

        def set_fewshot_seed(self, seed):
            self.seed = seed

    def mean():
        pass

    def other():
        pass

    def evaluate(**options):
        called.update(options)
        torch.rand(3)  # the real one draws, too
        scores = {"mmlu_a": [1.0, 0.0], "mmlu_b": [1.0, True], "truthfulqa_mc1": [0.0]}
        asked = {name: scores[name] for name in options["task_dict"]["tasks"]}
        return {
            "samples": {
                name: [{"acc": each, "filter": kind} for kind in ("none", "lenient") for each in found]
                for name, found in asked.items()
            }
        }

    def module(name, **content):
        made = types.ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    class TaskManager:
        def __init__(self, include_path=None):
            self.all_tasks = ["mmlu", "truthfulqa_mc1"]

        def load(self, names):
            leaves = ["mmlu_a", "mmlu_b"] if names == ["mmlu"] else names
            return {"tasks": {name: Task(name) for name in leaves}}

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            self.pretrained, self.tokenizer = pretrained.eval(), tokenizer
            tokenizer.pad_token = tokenizer.eos_token

    module("lm_eval", evaluate=evaluate)
    module("lm_eval.models")
    module("lm_eval.models.huggingface", HFLM=HFLM)
    module("lm_eval.tasks", TaskManager=TaskManager)
    return called


def test_the_model_in_memory_is_handed_over_and_every_question_counts_alike(model, tokenizer, harness):
    before = torch.get_rng_state()
    found = evaluate(model, tokenizer, general=True, limit=7)
    assert found.keys() == {"utility_general"}
    assert found["utility_general"].value == 75
    assert found["utility_general"].n == 4
    assert harness["lm"].pretrained is model
    tasks = harness["task_dict"]["tasks"]
    assert {name: (task.shots, task.seed) for name, task in tasks.items()} == {
        "mmlu_a": (5, 1234),
        "mmlu_b": (5, 1234),
    }
    assert harness["limit"] == 7
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert tokenizer.pad_token is None


def test_truthfulqa_keeps_its_own_shots_which_its_prompts_hold(model, tokenizer, harness):
    evaluate(model, tokenizer, truthful=True)
    tasks = harness["task_dict"]["tasks"]
    assert {name: task.shots for name, task in tasks.items()} == {"truthfulqa_mc1": 0}


def write_trees(folder, **config):
    """A task about forty trees, with its local data."""
    questions = [{"ask": chr(65 + n), "choices": ["elm", "oak", "yew"], "label": n % 3} for n in range(40)]
    (folder / "trees.jsonl").write_text("\n".join(map(json.dumps, questions)))
    task = {
        "task": "trees",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "trees.jsonl")}, "cache_dir": str(folder)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{ask}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / "trees.yaml").write_text(yaml.safe_dump(task | config))
    return questions


@pytest.mark.parametrize("tokenizer_adds_bos", [False, True])
def test_the_harness_scores_are_the_likelihoods_of_the_choices_after_bos_and_question(
    model, tokenizer, tokenizer_adds_bos, tmp_path
):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    questions = write_trees(tmp_path)
    asked = copy.deepcopy(tokenizer)
    if tokenizer_adds_bos:  # as Llama's does, and as the byte-level one of these tests does not
        asked.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert asked("a")["input_ids"][0] == (0 if tokenizer_adds_bos else tokenizer("a")["input_ids"][0])
    with code_allowed():
        found = harness_module.harness_accuracy(model, asked, HarnessTask("trees", folder=str(tmp_path)), 5)
    model.eval()
    right = []
    for question in questions:
        scores = []
        for choice in question["choices"]:
            text = f"{question['ask']} {choice}"
            ids = torch.tensor([[0, *tokenizer(text)["input_ids"]]])  # a token a byte: nothing merges at the seam
            with torch.no_grad():
                logs = model(input_ids=ids).logits.double().log_softmax(-1)[0, :-1]
            scores.append(logs.gather(1, ids[0, 1:, None])[-len(choice) - 1 :].sum().item())
        right.append(100.0 * (max(range(3), key=scores.__getitem__) == question["label"]))
    assert found.scores == tuple(right)
    assert 0 < found.value < 100


def test_the_harness_asks_with_one_bos_and_continues_without(tokenizer, model, harness):
    evaluate(model, tokenizer, general=True)
    asked = harness["lm"].tok_encode
    plain = tokenizer("Ash", add_special_tokens=False)["input_ids"]
    assert asked("Ash") == [0, *plain]
    assert asked("<s>Ash") == [0, *plain]
    assert asked("Ash", add_special_tokens=False) == plain
    assert asked("Ash", left_truncate_len=2) == plain[-2:]


def test_worked_examples_act_where_the_task_file_says_none(model, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    from lm_eval.models.huggingface import HFLM

    write_trees(tmp_path, num_fewshot=0)
    asked: list[str] = []
    real = HFLM.loglikelihood

    def loglikelihood(self, requests, **options):
        asked.extend(request.args[0] for request in requests)
        return real(self, requests, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", loglikelihood)
    with code_allowed():
        for shots, lines in ((2, 2), (None, 0)):
            asked.clear()
            found = evaluate(
                model,
                tokenizer,
                tasks=("trees",),
                shots={} if shots is None else {"trees": shots},
                task_folder=str(tmp_path),
                limit=3,
            )
            assert {text.count("\n\n") for text in asked} == {lines}
            assert found["task_trees"].n == 3


def test_the_figure_that_is_named_is_taken_and_one_that_is_no_mean_refused(model, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    write_trees(tmp_path)
    options = {"tasks": ("trees",), "task_folder": str(tmp_path)}
    with code_allowed():
        plain = evaluate(model, tokenizer, **options)["task_trees"].scores
        by_length = evaluate(model, tokenizer, **options, task_metrics={"trees": "acc_norm"})["task_trees"].scores
        assert plain == by_length  # all three answers are of one length
        with pytest.raises(InputError, match=r"no figure 'bleu' that is a mean .* Allowed: acc, acc_norm\."):
            evaluate(model, tokenizer, **options, task_metrics={"trees": "bleu"})
        with pytest.raises(InputError, match=r"has no task 'tres'; got .* Did you mean .*trees"):
            evaluate(model, tokenizer, tasks=("tres",), task_folder=str(tmp_path))


def test_data_that_cannot_be_had_is_said_before_anything_runs(model, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    write_trees(tmp_path)
    (tmp_path / "trees.jsonl").unlink()
    with code_allowed(), pytest.raises(InputError, match=r"cannot be evaluated.*data of the harness task 'trees'"):
        evaluate(model, tokenizer, tasks=("trees",), task_folder=str(tmp_path))


def test_written_answers_are_those_of_the_other_metrics_prompts(model, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    questions = write_trees(
        tmp_path,
        output_type="generate_until",
        doc_to_target="answer",
        doc_to_choice=None,
        generation_kwargs={"until": ["never"], "do_sample": False, "max_gen_toks": 8},
        metric_list=[{"metric": "exact_match"}],
    )
    asked = [f"{'oak ' * (number % 3)}{each['ask']}" for number, each in enumerate(questions[:6])]
    said = generate(model, tokenizer, asked, 8, 1)
    said[0] = "something else"
    rows = [{"ask": prompt, "answer": answer} for prompt, answer in zip(asked, said, strict=True)]
    (tmp_path / "trees.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with code_allowed():
        task = HarnessTask("trees", folder=str(tmp_path))
        found = harness_module.harness_accuracy(model, tokenizer, task, 4)
        assert found.scores == (0, *[100] * 5)
        with pytest.raises(InputError, match=r"leave no room .* got '8 tokens, of a model with 8 pos"):
            harness_module.check_task(task, 8)


def test_prompts_that_lose_their_beginning_are_counted(model, tokenizer, tmp_path, caplog):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    questions = write_trees(tmp_path)
    rows = [each | {"ask": "oak " * 100} if number < 2 else each for number, each in enumerate(questions)]
    (tmp_path / "trees.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with code_allowed(), caplog.at_level("INFO"):
        evaluate(model, tokenizer, tasks=("trees",), task_folder=str(tmp_path))
    (told,) = [record.message for record in caplog.records if "lost their beginning" in record.message]
    assert told.startswith(f"trees: 6 prompts are longer than the model's {model.config.max_position_embeddings}")


def test_every_process_of_a_node_is_given_its_figures(model, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    write_trees(tmp_path)
    with code_allowed():
        first = evaluate(model, tokenizer, tasks=("trees",), task_folder=str(tmp_path), limit=5)
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert evaluate(model, tokenizer, tasks=("trees",), task_folder=str(tmp_path), limit=5) == first


def metric(name):
    return next(metric for metric in METRICS if metric.name == name)


def test_what_is_read_for_utility_and_forget_tasks_decides_their_figures(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("water")
    suite = EvaluationSuite(utility=Utility(text=str(file)))
    first = json.loads(json.dumps(suite.deciding(metric("utility"))))
    assert first["utility"]["text"] == str(file)
    file.write_text("fire")
    assert suite.deciding(metric("utility"))["utility_read"] != first["utility_read"]
    assert EvaluationSuite().deciding(metric("utility")) == {"utility": None}
    assert "utility_read" not in suite.deciding(metric("windows"))
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    write_trees(tmp_path)
    suite = EvaluationSuite(forget_tasks=HarnessTasks(("trees",), task_folder=str(tmp_path)))

    def deciding():
        with code_allowed():
            forget_what_was_loaded()
            return json.dumps(suite.deciding(metric("forget_tasks")))

    before = deciding()
    assert deciding() == before
    write_trees(tmp_path, num_fewshot=2)
    changed = deciding()
    path = tmp_path / "trees.jsonl"
    path.write_text(path.read_text().replace("elm", "fir"))
    assert len({before, changed, deciding()}) == 3


def test_a_task_that_runs_what_the_model_writes_is_refused(model, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    write_trees(tmp_path, unsafe_code=True)
    with code_allowed(), pytest.raises(InputError, match="'trees' runs programs that the model writes"):
        EvaluationSuite(utility=Utility(tasks=("trees",), task_folder=str(tmp_path))).check_tasks()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": ("a", "a")}, "named twice; got 'a'"),
        ({"tasks": ("a",), "shots": {"b": 1}}, "shots names what is not among the tasks; got 'b'. Allowed: a"),
        ({"task_metrics": {"a": "acc"}}, "task_metrics names what is not among the tasks"),
        ({"tasks": ("a",), "shots": {"a": -1}}, "shots must not be negative"),
    ],
)
def test_contradictions_among_tasks_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Utility(**options)


def test_tasks_about_what_is_forgotten_are_knowledge_with_guessing_for_a_retrained_model(
    model, tokenizer, tmp_path
):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    write_trees(tmp_path)
    (tmp_path / "wmdp_trees.yaml").write_text(
        (tmp_path / "trees.yaml").read_text().replace("task: trees", "task: wmdp_trees")
    )
    suite = EvaluationSuite(
        batch_size=2, forget_tasks=HarnessTasks(("trees", "wmdp_trees"), task_folder=str(tmp_path), limit=8)
    )
    with code_allowed():
        found = suite.evaluate(model, tokenizer, NONE, {})
    assert found.keys() == {"forget_task_trees", "forget_task_wmdp_trees"}
    assert found["forget_task_trees"].n == 8
    assert (label_of("forget_task_wmdp_trees").floor, label_of("forget_task_trees").floor) == (25, 0)
    assert label_of("recovery_forget_task_trees_capped").table == "survival"
    assert label_of("task_hellaswag").role == "utility"
