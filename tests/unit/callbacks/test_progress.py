"""Progress bars fit 80 columns of a terminal; a log gets a line now and then."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from quail_lightning import terminal
from quail_lightning.callbacks import progress
from quail_lightning.callbacks.progress import progress_bars
from quail_lightning.terminal import Bar


class Terminal:
    """A terminal of 80 columns, and all that was written to it."""

    def __enter__(self):
        self._read, write = pty.openpty()
        fcntl.ioctl(write, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.file, self._said = os.fdopen(write, "w", encoding="utf-8"), []
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()
        return self

    def _collect(self):
        try:
            while part := os.read(self._read, 4096):
                self._said.append(part)
        except OSError:  # the other end was closed
            pass

    def __exit__(self, *_):
        self.file.close()
        self._reader.join()
        os.close(self._read)

    @property
    def rows(self):
        """Everything that stood on a line of its own, between carriage returns and line feeds."""
        text = re.sub(r"\x1b\[\w", "\r", b"".join(self._said).decode())
        return [row.rstrip() for row in re.split(r"[\r\n]+", text) if row.strip()]


LONG = "checkpoints/quickstart/retrained · uniform4-group64 · membership_auc, holdout"


@pytest.mark.parametrize("name", ["target · nf4 · verbmem_forget", LONG, "模型" * 60, ""])
def test_no_bar_is_wider_than_80_columns_and_its_numbers_stay(name, monkeypatch):
    with Terminal() as screen, Bar(desc=name, total=1234, file=screen.file, mininterval=0) as bar:
        for _ in range(1234):
            bar.update()
    assert max(terminal.disp_len(row) for row in screen.rows) <= 80
    assert any("1234/1234" in row for row in screen.rows)
    assert any(name[-20:] in row for row in screen.rows)


class Steps(LightningModule):
    """What an unlearning module logs, of a long run."""

    def __init__(self, shown):
        super().__init__()
        self.automatic_optimization, self.shown = False, shown

    def training_step(self, batch, batch_idx):
        self.log_dict(self.shown, prog_bar=True, logger=False)

    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], 0.0)


SHOWN = {"forget NLL": 12.34567, "hinge": 0.12345, "retain NLL": 0.7123}


def train(file, monkeypatch, steps=120, epochs=2):
    monkeypatch.setattr(progress.sys, "stdout", file)
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=epochs, callbacks=progress_bars({}), **options)
    trainer.fit(Steps(SHOWN), DataLoader(torch.zeros(steps)))


def test_the_training_bar_tells_epoch_step_rate_and_losses_within_80_columns(monkeypatch):
    with Terminal() as screen:
        train(screen.file, monkeypatch)
    rows = [row for row in screen.rows if row.startswith("epoch")]
    assert max(map(len, screen.rows)) <= 80
    wanted = r"epoch 2/2 120/120 \d+\.\d+it/s.*, forget NLL 12\.35 hinge 0\.12 retain NLL 0\.71"
    assert re.search(wanted, rows[-1]), rows[-1]
    assert any(row.startswith("epoch 1/2 120/120") for row in rows)
    assert not any("v_num" in row for row in rows)


def test_a_typical_step_of_a_large_model_leaves_room_for_the_time_left():
    with Terminal() as screen, Bar(desc="epoch 3/10", total=204, file=screen.file, initial=1) as bar:
        bar.n, bar.start_t = 121, bar.start_t - 300
        bar.set_postfix(SHOWN | {"forget NLL": 4.63})
    assert screen.rows[-1] == "epoch 3/10 121/204  2.50s/it <03:27, forget NLL 4.63 hinge 0.12 retain NLL 0.71"


def test_the_evaluations_bar_tells_the_rate_of_what_it_names():
    with Terminal() as screen, Bar(desc="target", file=screen.file) as bar:
        bar.show("target · nf4 · verbmem_forget", 1, 2)
        bar.start_t -= 1000  # so long ago did this measure begin
        bar._shown_at -= 10  # and so long ago did it end
        bar.show("target · nf4 · nll_forget", 20, 40)
    assert screen.rows[0] == "target"
    assert re.search(r"nll_forget  50%.* 20/40  [12]\.\d\dit/s, 00:\d\d left", screen.rows[-1]), screen.rows


def test_a_bar_of_another_rank_is_told_in_vain():
    bar = Bar(desc="target", disable=True)
    bar.show("target · nf4", 1, 2)
    bar.close()


class Log:
    """A file that is no terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def test_a_log_gets_no_carriage_return_and_nothing_of_what_is_quick(monkeypatch):
    log = Log()
    train(log, monkeypatch)
    with Bar(total=1000, desc="quick", file=log, mininterval=0) as bar:
        for _ in range(1000):
            bar.update()
    assert log.text == ""


def test_a_log_gets_a_line_each_tenth_of_the_way_and_one_at_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    log = Log()
    with Bar(total=1000, desc="slow", file=log) as bar:
        for _ in range(1000):
            now[0] += 0.5
            bar.update()
            bar.refresh()
    lines = log.text.splitlines()
    assert "\r" not in log.text
    assert 9 <= len(lines) <= 1000 * 0.5 / terminal.LATE + 11
    assert len(lines) == len(set(lines))
    assert lines[-1].startswith("slow 1000/1000")
    assert max(map(len, lines)) <= 80


def test_what_hardly_moves_is_told_every_half_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    log = Log()
    with Bar(total=100_000, file=log) as bar:
        for _ in range(90):
            now[0] += 1
            bar.update()
            bar.refresh()
    assert len(log.text.splitlines()) == 3


def test_a_named_step_above_a_bar_leaves_a_log_clean(monkeypatch):
    log = Log()
    monkeypatch.setattr(sys, "stderr", log)
    with Bar(total=10):
        terminal._write_line("loading it ...")
    assert log.text == "loading it ...\n"


def test_an_epoch_that_is_gone_on_with_has_its_bar(monkeypatch):
    (bar,) = progress_bars({})
    trainer = SimpleNamespace(max_epochs=3, max_steps=-1, current_epoch=1, num_training_batches=4)
    monkeypatch.setattr(bar, "_trainer", trainer)
    bar.on_train_start(trainer)  # Lightning starts no epoch inside which a checkpoint lies
    assert (bar.train_progress_bar.desc, bar.train_progress_bar.total) == ("epoch 2/3", 4)
    bar.train_progress_bar.close()
    trainer.current_epoch = 2
    bar.on_train_epoch_start(trainer)
    assert bar.train_progress_bar.desc == "epoch 3/3"
    bar.train_progress_bar.close()
