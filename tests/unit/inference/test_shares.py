"""Batches handed out to processes: each once, composed as for one process, none idle."""

import threading

import pytest
import torch

from quail_lightning.data.questions import EvaluationRecords, MembershipTexts, VerbatimPrompt
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.inference.shares import Shares, shared_among
from quail_lightning.run.processes import Processes
from quail_lightning.run.results import Estimate


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
ORDER = [1, 3, 5, 6, 2, 0, 4]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_batch_is_one_processs_and_holds_what_it_holds_alone(count):
    batches = []

    def run(processes):
        shares = Shares(processes)
        own = shares.own(ORDER, 2)
        batches.extend(tuple(own[start : start + 2]) for start in range(0, len(own), 2))
        return shares.merged(own, [10 * number if number in own else None for number in range(7)])

    assert together(count, run) == [[0, 10, 20, 30, 40, 50, 60]] * count
    assert sorted(batches) == [(1, 3), (2, 0), (4,), (5, 6)]


def test_who_had_less_of_one_metric_gets_more_of_the_next():
    def run(processes):
        shares = Shares(processes)
        return [len(shares.own([0], 8)) for _ in range(4)]  # metrics of one batch each

    assert together(2, run) == [[1, 0, 1, 0], [0, 1, 0, 1]]


def test_a_configured_batch_size_is_taken_as_it_is():
    assert together(2, lambda processes: Shares(processes).rows(64, 64, 10)) == [64, 64]


def test_batches_by_memory_agree_and_leave_no_process_without_work():
    found = together(2, lambda processes: Shares(processes).rows(None, (256, 4)[processes.rank], 100))
    assert found == [4, 4]  # the least of all memories
    assert together(2, lambda processes: Shares(processes).rows(None, 256, 100)) == [50, 50]
    assert Shares().rows(None, 256, 100) == 256


def test_a_suite_shared_by_two_gives_the_figures_of_one(model, tokenizer):
    records = EvaluationRecords(
        verbatim=(VerbatimPrompt("It was a dark", " night"), VerbatimPrompt("Call me", " Ishmael")),
        membership=MembershipTexts(("forget one", "forget two"), ("kept",), ("holdout one", "h two", "h three")),
    )
    windows = {"forget": torch.randint(2, 258, (5, 12), generator=torch.Generator().manual_seed(0))}
    suite = EvaluationSuite(batch_size=1, verbmem_new_tokens=6)
    model.eval()  # the threads share it, and the first one done would set the other's back to training
    expected = suite.evaluate(model, tokenizer, records, windows)
    work = [0, 0]

    def run(processes):
        def count(name, done, total):
            work[processes.rank] += 1

        with shared_among(processes, model):
            return suite.evaluate(model, tokenizer, records, windows, progress=count)

    for measures in together(2, run):
        assert measures == expected
        for name, measure in measures.items():
            assert isinstance(measure, Estimate)
            assert measure.scores == expected[name].scores
    assert work == [6, 6]  # 2 prompts, 5 texts, 5 windows
