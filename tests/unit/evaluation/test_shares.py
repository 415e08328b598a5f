"""Batches handed out to processes: each once, composed as for one process, none idle."""

import threading

import pytest
import torch

from quail_lightning.data.questions import EvaluationRecords, MembershipTexts, VerbatimPrompt
from quail_lightning.evaluation.shares import Shares
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.processes import Processes
from quail_lightning.results import Estimate


def together(count, run):
    """Runs ``run(processes)`` in ``count`` threads that gather from each other; what each gave."""
    meeting, told, results = threading.Barrier(count, timeout=60), [None] * count, [None] * count

    def one(rank):
        def gather(value):
            told[rank] = value
            meeting.wait()
            everyone = list(told)
            meeting.wait()
            return everyone

        results[rank] = run(Processes(rank, count, meeting.wait, gather))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return results


LENGTHS = [3, 9, 4, 9, 1, 7, 7]  # longest first: 1 3 | 5 6 | 2 0 | 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_batch_is_one_processs_and_holds_what_it_holds_alone(count):
    batches = []

    def run(processes):
        def judge(own):
            order = sorted(range(len(own)), key=lambda index: own[index][1], reverse=True)
            batches.extend(
                tuple(own[index][0] for index in order[start : start + 2]) for start in range(0, len(own), 2)
            )
            return [10 * number for number, _ in own]

        return Shares(processes).run(list(enumerate(LENGTHS)), LENGTHS, 2, judge)

    assert together(count, run) == [[0, 10, 20, 30, 40, 50, 60]] * count
    assert sorted(batches) == [(1, 3), (2, 0), (4,), (5, 6)]


def test_who_had_less_of_one_metric_gets_more_of_the_next():
    def run(processes):
        shares, made = Shares(processes), []
        for _ in range(4):  # metrics of one batch each
            shares.run(["a"], None, 8, lambda own: made.extend(own) or own)
        return len(made)

    assert together(2, run) == [2, 2]


def test_a_process_without_records_runs_nothing():
    def run(processes):
        return Shares(processes).run(["a"], None, 8, lambda own: [len(own)])

    assert together(3, run) == [[1]] * 3


def test_a_suite_shared_by_two_gives_the_figures_of_one(model, tokenizer):
    records = EvaluationRecords(
        verbatim=(VerbatimPrompt("It was a dark", " night"), VerbatimPrompt("Call me", " Ishmael")),
        membership=MembershipTexts(("forget one", "forget two"), ("kept",), ("holdout one", "h two", "h three")),
    )
    windows = {"forget": torch.randint(2, 258, (5, 12), generator=torch.Generator().manual_seed(0))}
    suite = EvaluationSuite(batch_size=1, verbmem_new_tokens=6)
    expected = suite.evaluate(model, tokenizer, records, windows)
    work = [0, 0]

    def run(processes):
        def count(name, done, total):
            work[processes.rank] += 1

        return suite.evaluate(model, tokenizer, records, windows, progress=count, processes=processes)

    for measures in together(2, run):
        assert measures == expected
        for name, measure in measures.items():
            assert isinstance(measure, Estimate)
            assert measure.scores == expected[name].scores
    assert work == [6, 6]  # 2 prompts, 5 texts, 5 windows
