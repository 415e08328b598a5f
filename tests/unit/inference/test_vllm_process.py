"""``vllm serve`` is started with what it needs, waited for and ended; what it says is told when it fails."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quail_lightning.configuration.allowed_code import code_allowed
from quail_lightning.errors import InputError, RunError
from quail_lightning.inference import vllm_process as tested
from quail_lightning.inference.completion_server import CompletionServer
from quail_lightning.inference.vllm_process import check_vllm, vllm_process

START = f"#!{sys.executable}\nimport os, sys\n"
ANSWERING = """
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("CUDA out of memory, hf_abcdefgh12345678", flush=True)
            os._exit(7)
        told = {"arguments": sys.argv[1:], "pid": os.getpid(), "stats": os.environ["VLLM_NO_USAGE_STATS"]}
        known = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tested, "PAUSE", 0.05)

    def write(body: str) -> str:
        path = tmp_path / "vllm"
        path.write_text(START + body)
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def vllm_on_path(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return str(program(""))


def started(program: str, folder: Path, *arguments: str, gpu: int | None = None) -> Any:
    return vllm_process(program, folder, "bfloat16", arguments, folder / "vllm.log", gpu)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("key", [None, "sesame-1234"])
@pytest.mark.parametrize("failing", [False, True])
def test_it_serves_the_folder_to_this_machine_alone_until_the_block_ends(
    key: str | None, failing: bool, program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("VLLM_API_KEY", key)
    told: dict[str, Any] = {}
    end: Any = pytest.raises(KeyboardInterrupt) if failing else pytest.MonkeyPatch.context()
    with end, started(program(ANSWERING), tmp_path, "--max-model-len", "64") as server:
        told = server.get("/v1/models")
        assert server.url.startswith("http://127.0.0.1:")
        assert server.key == key or key is None
        assert len(server.key) > 8
        assert server.key not in str(told["arguments"])
        if failing:
            raise KeyboardInterrupt
    port = told["arguments"][told["arguments"].index("--port") + 1]
    assert told["arguments"] == [
        "serve", str(tmp_path.resolve()), "--host", "127.0.0.1", "--port", port, "--dtype", "bfloat16",
        "--generation-config", "vllm", "--disable-uvicorn-access-log", "--max-model-len", "64",
    ]  # fmt: skip
    assert told["stats"] == "1"
    assert not is_running(told["pid"])
    assert stat.S_IMODE((tmp_path / "vllm.log").stat().st_mode) == 0o600


@pytest.mark.parametrize(("seen", "gpu", "given"), [("", 1, "1"), ("4, 6", 1, "6"), ("4,6", None, "4,6")])
def test_it_is_given_the_gpu_that_is_named(
    seen: str, gpu: int | None, given: str, program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    telling = program("print('sees', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\nsys.exit(5)")
    with pytest.raises(RunError, match=f"sees {given}\n"), started(telling, tmp_path, gpu=gpu):
        pytest.fail("it never listened")


def test_an_early_end_is_told_with_the_last_lines(program: Any, tmp_path: Path) -> None:
    failing = program("print('first')\nprint('no GPU\\n' * 14 + 'last', flush=True)\nsys.exit(5)")
    with (
        pytest.raises(
            RunError, match=r"(?s)ended with status 5 .*vllm\.log.*no GPU.*last.*--max-model-len"
        ) as told,
        started(failing, tmp_path),
    ):
        pytest.fail("it never listened")
    assert "first" not in str(told.value)


def test_nothing_is_imported_from_the_current_folder(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colleague").mkdir()
    monkeypatch.chdir(tmp_path / "colleague")
    Path("subprocess.py").write_text("print('a colleague says hello', flush=True)\nraise SystemExit(9)")
    with (
        pytest.raises(RunError, match="ended with status 5") as told,
        started(program("print('started', flush=True)\nsys.exit(5)"), tmp_path),
    ):
        pytest.fail("it never listened")
    assert "hello" not in str(told.value)


def test_an_end_in_the_middle_is_told_as_such_and_secrets_are_masked(program: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"(?s)ended with status 7 .*CUDA out of memory, \*\*\*"),
        started(program(ANSWERING), tmp_path) as server,
    ):
        server.get("/die")


def test_what_never_listens_is_given_up(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "STARTING", 0.3)
    began = time.monotonic()
    silent = program("import time\ntime.sleep(60)")
    with pytest.raises(RunError, match=r"does not listen 0\.3 s after"), started(silent, tmp_path):
        pytest.fail("it never listened")
    assert time.monotonic() - began < 15


STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERING


@pytest.mark.parametrize("failing", [False, True])
def test_a_slow_end_is_said_and_hides_neither_a_result_nor_an_error(
    failing: bool,
    program: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tested, "ENDING", 0.2)
    told: dict[str, Any] = {}
    end: Any = pytest.raises(ValueError, match="its own") if failing else pytest.MonkeyPatch.context()
    with end, started(program(STUBBORN), tmp_path) as server:
        told = server.get("/v1/models")
        if failing:
            raise ValueError("its own")
    assert is_running(told["pid"])
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "still ending" in line]
    watcher = int(re.search(r"process (\d+) is there", said)[1])  # type: ignore[index]
    assert watcher != told["pid"]
    os.kill(told["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(told["pid"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.waitpid(watcher, 0)


def test_a_second_start_s_log_leaves_the_first_its_own(program: Any, tmp_path: Path) -> None:
    def start_again_then_die(server: CompletionServer) -> None:
        server.get("/v1/models")
        failing = program("print('no GPU', flush=True)\nsys.exit(5)")
        with pytest.raises(RunError, match=r"(?s)status 5 .*no GPU"), started(failing, tmp_path):
            pytest.fail("it never listened")
        server.get("/die")

    with (
        pytest.raises(RunError, match=r"(?s)ended with status 7 .*CUDA out of memory"),
        started(program(ANSWERING), tmp_path) as server,
    ):
        start_again_then_die(server)
    assert (tmp_path / "vllm.log").read_text() == "no GPU\n"
    assert {path.name for path in tmp_path.iterdir()} == {"vllm", "vllm.log"}


@pytest.mark.parametrize(
    "argument",
    [
        "--trust-remote-code",
        "--trust_remote_code",
        "--trust-rem",
        "--config=x.yaml",
        "--host",
        "--po",
        "--api-key=k",
        "--enable-log-r",
        "--quant",
        "--load-format",
    ],
)
def test_arguments_that_are_not_for_the_user_are_refused_also_when_abbreviated(argument: str) -> None:
    with pytest.raises(InputError, match=r"vllm\.arguments holds --"):
        check_vllm([argument])
    with code_allowed(), pytest.raises(InputError, match=r"vllm\.arguments holds --"):
        check_vllm([argument])


@pytest.mark.parametrize(
    "argument", ["--middleware=m.f", "--tool-parser-plugin", "-O3", "--worker-cls", "--max-mod"]
)
def test_what_may_load_code_is_for_who_allows_it(argument: str, vllm_on_path: str) -> None:
    with pytest.raises(InputError, match=r"(?s)may load code.*--allow-code"):
        check_vllm([argument, "x"])
    with code_allowed():
        assert check_vllm([argument, "x"]) == vllm_on_path


def test_plain_arguments_pass_and_a_missing_program_says_how_to_get_it(
    vllm_on_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = ["--max-model-len", "4096", "--gpu_memory_utilization=0.5", "-tp", "2", "--seed", "-1"]
    assert check_vllm(fine) == vllm_on_path
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"(?s)not installed.*GPU.*pip install vllm.*vllm\.url.*own"):
        check_vllm([])
