"""Windows of a tiny target, and the arithmetic of a step, for all tests of the references."""

import pytest
import torch

from quail_lightning.data.batch import TokenBatch
from quail_lightning.models.activations import activations
from quail_lightning.reference import Arithmetic, Request, layout
from quail_lightning.run.processes import Processes


@pytest.fixture
def windows():
    """Set → [n, 9] windows; 7 and 5, so that neither fills its last batch of 2."""
    generator = torch.Generator().manual_seed(5)
    return {
        "forget": torch.randint(64, (7, 9), generator=generator),
        "retain": torch.randint(64, (5, 9), generator=generator),
    }


@pytest.fixture
def requests_of(windows):
    """Builds requests, for everything of both sets unless told otherwise."""

    def build(forget=("logits", "likelihood", "layers"), retain=("logits", "likelihood", "layers")):
        return {
            side: Request(windows[side], frozenset(frozen), (0, 1) if "layers" in frozen else ())
            for side, frozen in (("forget", forget), ("retain", retain))
            if frozen
        }

    return build


@pytest.fixture
def batch_of(windows):
    """Builds the batch of some windows of a set."""

    def build(side, numbers):
        ids = windows[side][list(numbers)]
        return TokenBatch(ids, ids, torch.tensor(list(numbers)))

    return build


@pytest.fixture
def arithmetic_of():
    """Builds the arithmetic of a step in a dtype."""

    def build(dtype=torch.float32, autocast=False, batch_size=2, forward=activations):
        def run(model, ids, layers):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return forward(model, ids, layers)

        return Arithmetic(run, dtype, batch_size, torch.device("cpu"))

    return build


@pytest.fixture
def prepare(requests_of, arithmetic_of):
    """Prepares a reference from a model."""

    def run(reference, model, requests=None, arithmetic=None, identity=None, processes=None):
        reference.prepare(
            requests or requests_of(),
            lambda: model,
            identity or {"target": "abc"},
            arithmetic or arithmetic_of(),
            processes or Processes(),
        )
        return reference

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the caches go; shards hold one batch of 2 windows, so that there are several."""
    monkeypatch.setattr(layout, "SHARD_BYTES", 1)
    return tmp_path / "caches"


@pytest.fixture
def contents():
    """Gives name → bytes of the files of the one cache in a folder."""

    def read(folder):
        (cache,) = folder.iterdir()
        return {path.name: path.read_bytes() for path in cache.iterdir()}

    return read


@pytest.fixture
def values(batch_of):
    """Gives all that a reference says about the forget set, in one row."""

    def read(reference):
        found = reference.outputs("forget", batch_of("forget", range(7)))
        return torch.cat([found.rows(slice(0, 56)).flatten(), found.likelihood, found.layers[1].flatten()])

    return read


@pytest.fixture
def again(tiny_llama, requests_of, arithmetic_of, values):
    """Prepares anew, as another run would; what it then gives, and how often it asked for the target."""

    def run(kind, folder, **changed):
        asked = []

        def target():
            asked.append(True)
            return tiny_llama()

        reference = kind(str(folder))
        given = {"requests": requests_of(), "identity": {"target": "abc"}, "arithmetic": arithmetic_of()} | changed
        reference.prepare(target=target, processes=Processes(), **given)
        return values(reference), len(asked)

    return run
