"""Runs quail's command line in forked processes, each with one fault; imports everything only once.

Reads a JSON object a line: ``arguments``, ``fault`` (a name below, or null), ``log``, ``processes`` (how many,
started as torchrun starts several). Answers by their exit statuses; who has not ended in time is killed.
"""

import errno
import functools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers.models.llama.modeling_llama

from quail_lightning.callbacks import training_checkpoint
from quail_lightning.cli import main
from quail_lightning.command_line import lightning_cli
from quail_lightning.evaluation import evaluator
from quail_lightning.models import checkpoint as model_checkpoint
from quail_lightning.objectives import GradientAscent
from quail_lightning.reference import store
from quail_lightning.run.training_state import tensors_and_json

IMPORTED = (transformers, lightning_cli)  # once, for all that are forked
PATIENCE = 120  # seconds


def at_call(owner, name, number, fault):
    """Let ``fault`` strike at the ``number``-th call of a function."""
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def struck(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            fault(*args)
        return original(*args, **kwargs)

    setattr(owner, name, struck)


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def half_write_and_kill(tensors, path):
    Path(path).write_bytes(b"\x10" * 1000)
    kill()


def disk_full(tensors, path):
    Path(path).write_bytes(b"\x10" * 1000)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil_second_process(number):
    """The second process's forget loss is not a number, at its ``number``-th call."""
    original, calls = GradientAscent.loss, []

    @functools.wraps(original)  # the parser compares signatures
    def spoiled(self, seen):
        calls.append(1)
        value = original(self, seen)
        return value * float("nan") if len(calls) == number and os.environ.get("RANK") == "1" else value

    GradientAscent.loss = spoiled


STEP, WRITE = (torch.optim.AdamW, "step"), (tensors_and_json, "save_file")
FAULTS = {  # three batches an epoch, two optimizer steps a batch; checkpoints after the batches 2, 3, 4, 6
    "SIGKILL inside an epoch": lambda: at_call(*STEP, 6, kill),
    "SIGKILL inside a checkpoint": lambda: at_call(*WRITE, 2, half_write_and_kill),
    "SIGKILL before a checkpoint is vouched for": lambda: at_call(training_checkpoint, "write_manifest", 2, kill),
    "SIGKILL right after a checkpoint": lambda: at_call(training_checkpoint, "remove_old", 1, kill),
    "SIGKILL inside the reference cache": lambda: at_call(store, "save_file", 1, half_write_and_kill),
    "SIGKILL inside the evaluation": lambda: at_call(evaluator, "on_copy", 4, kill),
    "SIGKILL inside the last evaluation": lambda: at_call(evaluator, "on_copy", 6, kill),
    "SIGKILL inside the export": lambda: at_call(model_checkpoint, "publish", 1, kill),
    "SIGTERM inside an optimizer step": lambda: at_call(*STEP, 9, terminate),
    "SIGTERM inside an epoch's last batch": lambda: at_call(*STEP, 6, terminate),
    "SIGTERM inside the evaluation": lambda: at_call(evaluator, "on_copy", 4, terminate),
    "disk full": lambda: at_call(*WRITE, 2, disk_full),
    "NaN on the second process": lambda: spoil_second_process(2),
}


def run(asked, environment):
    """The command in this process; never returns."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment)
    sys.argv = ["quail"]
    status = 70
    try:
        if asked["fault"]:
            FAULTS[asked["fault"]]()
        main(asked["arguments"])
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def environments(count):
    """What torchrun tells each of several processes; nothing to one alone."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "GROUP_RANK": "0"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "tests"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def ended(children):
    """The exit status of each, negative: of a signal."""
    deadline, statuses = time.monotonic() + PATIENCE, {}
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses and (found := os.waitpid(child, os.WNOHANG))[0]:
                statuses[child] = os.waitstatus_to_exitcode(found[1])
            elif child not in statuses and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [statuses[child] for child in children]


def serve():
    for line in sys.stdin:
        asked, children = json.loads(line), []
        for environment in environments(asked["processes"]):
            children.append(os.fork())
            if not children[-1]:
                run(asked, environment)
        print(json.dumps(ended(children)), flush=True)


if __name__ == "__main__":
    serve()
