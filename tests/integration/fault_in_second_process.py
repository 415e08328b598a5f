"""quail's command line, whose second process is killed in its third optimizer step."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from quail_lightning.cli import program

if os.environ.get("LOCAL_RANK") == "1":
    step, calls = torch.optim.AdamW.step, []

    def struck(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args, **kwargs)

    torch.optim.AdamW.step = struck

program()
