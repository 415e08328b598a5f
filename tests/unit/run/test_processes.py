"""How positions are divided among processes and put together again."""

import subprocess
import sys

import pytest

from quail_lightning.run.processes import Processes, current_processes, world_size


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (3, 2, [[0, 1], [2]]),
        (1, 2, [[0], []]),
        (5, 4, [[0, 1], [2, 3], [4], []]),
        (0, 2, [[], []]),
    ],
)
def test_parts_adjoin_and_cover_every_position_once(length, count, expected):
    assert [list(Processes(rank, count).part(length)) for rank in range(count)] == expected


def test_values_of_all_processes_come_back_in_the_positions_order():
    other = [(2, "c"), (0, "a")]
    assert Processes(0, 2, gather=lambda own: [own, other]).merged([(1, "b")], 3) == ["a", "b", "c"]


def test_a_process_alone_is_the_first_of_one():
    assert world_size() == 1
    assert (current_processes().rank, current_processes().world_size) == (0, 1)
    assert current_processes().merged([(0, "only")], 1) == ["only"]


ENDING = """
import atexit, sys
from torch import distributed
from quail_lightning.run.processes import end_together

class TakenDown:
    def __del__(self):
        print("Python was taken down")

kept = TakenDown()
atexit.register(print, "atexit ran")
if sys.argv[1] == "grouped":
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
end_together(3)
"""


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("grouped", 3, ["atexit ran"]), ("alone", 0, ["atexit ran", "Python was taken down"])],
)
def test_a_process_of_several_ends_before_python_is_taken_down(how, status, said):
    ended = subprocess.run([sys.executable, "-c", ENDING, how], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.splitlines()) == (status, said), ended.stderr
