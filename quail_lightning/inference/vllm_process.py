"""``vllm serve`` as a process of this one: started on a folder, waited for, and ended whatever happens."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from quail_lightning.configuration.allowed_code import code_refused, is_code_allowed
from quail_lightning.errors import InputError, RunError
from quail_lightning.inference.completion_server import KEY, CompletionServer, ServerError, Unreachable
from quail_lightning.inference.served_model import MODELS
from quail_lightning.run.masking import masked
from quail_lightning.run.parent import GRACE, dependent_process
from quail_lightning.terminal import step

STARTING = 1_800.0  # seconds; vLLM reads the weights, compiles and captures graphs before it listens
ENDING = GRACE + 20  # seconds until it is gone, of which the first ``GRACE`` are its own
PAUSE = 0.5  # seconds between two looks
SHOWN = 15  # last lines of its output, in an error
NUMBER = re.compile(r"-\d.*")  # a value, not an option
HOST, DEVICES = "127.0.0.1", "CUDA_VISIBLE_DEVICES"
OURS = (
    *("--model", "--dtype", "--host", "--port", "--uds", "--api-key", "--served-model-name", "--root-path"),
    *("--quantization", "-q", "--load-format", "--hf-overrides", "--tokenizer", "--lora-modules"),
)
"""Options of ``vllm serve`` that the evaluation decides: where it listens, and which weights it has."""
REFUSED = {
    "--trust-remote-code": "code of a checkpoint is never run",
    "--config": "it could hold any option; name them one by one",
    "--enable-log-requests": "the prompts would stand in a log that `quail clean` does not know",
}
PLAIN = {
    *("--max-model-len", "--gpu-memory-utilization", "--max-num-seqs", "--max-num-batched-tokens", "--seed"),
    *("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp"),
    *("--enforce-eager", "--kv-cache-dtype", "--cpu-offload-gb", "--block-size", "--disable-log-stats"),
    *("--enable-prefix-caching", "--no-enable-prefix-caching", "--enable-chunked-prefill"),
}
"""Options that load no code; others (middleware, plugins, workers) may, so a config cannot give them by itself."""


def check_vllm(arguments: Sequence[str]) -> str:
    """The program's path, once it is certain that it may be started.

    Args:
        arguments: of ``vllm serve``, besides those that the evaluation decides.

    Raises:
        InputError: vLLM is not installed, or an argument is not for the user, or could run code unasked.
    """
    for argument in arguments:
        given = argument.partition("=")[0].replace("_", "-")
        if not given.startswith("-") or NUMBER.fullmatch(given):
            continue
        # argparse takes an abbreviation too
        if meant := next((name for name in (*OURS, *REFUSED) if name.startswith(given)), None):
            why = REFUSED.get(meant, "the evaluation decides it")
            raise InputError(f"vllm.arguments holds {meant}: {why}", given=masked(argument))
        if given not in PLAIN and not is_code_allowed():
            raise code_refused("vllm.arguments holds an option that may load code", masked(argument))
    program = shutil.which("vllm")
    if program is None:
        raise InputError(
            "vLLM is not installed: there is no program vllm on the PATH",
            remedy="It needs a GPU and, for it pins other libraries, an environment of its own: python -m venv "
            'VLLM && VLLM/bin/pip install vllm, then PATH="$PATH:$PWD/VLLM/bin" quail evaluate ... Or name a '
            "running server by vllm.url, or leave engine at own, which needs neither",
        )
    return str(Path(program).absolute())


@contextmanager
def vllm_process(
    program: str, folder: Path, dtype: str, arguments: Sequence[str], log: Path, gpu: int | None = None
) -> Iterator[CompletionServer]:
    """A server of the folder's model that listens on this machine alone, until the block ends, however it ends.

    Args:
        program: of ``check_vllm``.
        folder: of the checkpoint.
        dtype: that it computes in, ``bfloat16``.
        arguments: more of ``vllm serve``, checked.
        log: file that takes its output; its owner alone can read it.
        gpu: number of the CUDA device that it is given, among those that this process sees; None: all.

    Raises:
        RunError: it ends by itself; with the last lines of its output.
        ServerError: it does not listen in time.
    """
    port, key = _free_port(), os.environ.get(KEY) or secrets.token_urlsafe(24)
    command = [program, "serve", str(folder.resolve()), "--host", HOST, "--port", str(port), "--dtype", dtype]
    # the checkpoint's sampling defaults would cap what is asked for; a line a request says nothing
    command += ["--generation-config", "vllm", "--disable-uvicorn-access-log", *arguments]
    # -P: Python's own start would import from the current folder, which may be a colleague's
    safe = [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]
    group = [sys.executable, *safe, "-m", "quail_lightning.run.process_group", *command]
    # the key by the environment: a command line can be read by everybody
    given = {KEY: key, "VLLM_NO_USAGE_STATS": "1"} | _visible(gpu)
    server = CompletionServer(f"http://{HOST}:{port}", key)
    process: subprocess.Popen[bytes] | None = None
    with _new_file(log) as output:
        try:
            with dependent_process(group, given, output) as process:
                with step(f"starting vLLM on {folder}, its output goes to {log}"):
                    _wait(server, process)
                yield server
        except ServerError as error:
            # ended, or about to: a connection breaks a moment before the process is gone
            if process is not None and isinstance(error, Unreachable) and _has_ended(process):
                raise RunError(
                    f"vLLM ended with status {process.returncode} on {folder}; the end of its output ({log}):\n"
                    f"{_last_lines(output)}\n",
                    remedy="If memory is short: vllm.arguments with --max-model-len or --gpu-memory-utilization",
                ) from error
            raise
        finally:
            if process is not None:
                _wait_for_end(process, folder)


def _wait(server: CompletionServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        try:
            server.get(MODELS)
            return
        except Unreachable:
            if process.poll() is not None:
                raise
            if time.monotonic() > deadline:
                raise ServerError(f"vLLM does not listen {STARTING:g} s after its start") from None
        time.sleep(PAUSE)


def _wait_for_end(process: subprocess.Popen[bytes], folder: Path) -> None:
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:  # said, not raised: the block has its own result or its own error
        print(
            f"vLLM on {folder} is still ending after {ENDING:g} s, and may hold the GPU's memory; process "
            f"{process.pid} is there until it has ended",
            file=sys.stderr,
            flush=True,
        )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        return process.wait(2 * PAUSE) is not None
    except subprocess.TimeoutExpired:
        return False


def _visible(gpu: int | None) -> dict[str, str]:
    """The variable that leaves a process one of the CUDA devices that this one sees."""
    if gpu is None:
        return {}
    seen = [each.strip() for each in os.environ.get(DEVICES, "").split(",") if each.strip()]
    return {DEVICES: seen[gpu] if seen else str(gpu)}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _new_file(path: Path) -> IO[bytes]:
    """An empty file, its owner's alone, in the place of one that another evaluation may still be writing."""
    descriptor, made = tempfile.mkstemp(dir=path.parent)
    os.replace(made, path)
    return open(descriptor, "wb")


def _last_lines(output: IO[bytes]) -> str:
    # not by its name, which may be another start's by now
    told = os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0)
    lines = told.decode("utf-8", "replace").splitlines()[-SHOWN:]
    return "\n".join(f"  {masked(line)}" for line in lines) or "  (it wrote nothing)"
