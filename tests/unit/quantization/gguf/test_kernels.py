"""llama.cpp's kernels, called in its library, against the gguf package's own arithmetic."""

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.functional.ggml_blocks import LAYOUTS
from quail_lightning.quantization.gguf import kernels

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


def weight(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.05 * torch.randn(96, 512, generator=torch.Generator().manual_seed(1))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_are_those_of_the_gguf_package(kind, dtype):
    given = weight(dtype)
    expected = gguf.quants.quantize(given.float().numpy(), gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(kernels.pack(given, kind), expected)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_blocks_stand_for_is_what_the_gguf_package_says(kind):
    packed = kernels.pack(weight(), kind)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(kernels.unpack(packed, kind).numpy(), expected)


@pytest.mark.parametrize(("kind", "most"), [("Q4_K", 0.08), ("Q5_K", 0.04), ("Q6_K", 0.02)])
def test_the_k_types_are_as_near_as_their_bits_allow(kind, most):
    given = weight()
    error = (kernels.unpack(kernels.pack(given, kind), kind) - given).norm() / given.norm()
    assert most / 2 < error < most


def test_several_threads_give_the_same_blocks(monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 4096)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    packed = {kind: kernels.pack(weight(), kind) for kind in LAYOUTS}
    values = {kind: kernels.unpack(packed[kind], kind) for kind in LAYOUTS}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for kind in LAYOUTS:
        np.testing.assert_array_equal(kernels.pack(weight(), kind), packed[kind])
        assert torch.equal(kernels.unpack(packed[kind], kind), values[kind])


def test_a_transposed_weight_is_packed_by_its_rows():
    given = weight()
    np.testing.assert_array_equal(kernels.pack(given.T.contiguous().T, "Q8_0"), kernels.pack(given, "Q8_0"))


def test_a_package_without_ggml_s_functions_is_named_with_the_remedy(monkeypatch, tmp_path):
    (tmp_path / "xllamacpp.abi3.so").write_bytes(b"no library")
    for folders in ([str(tmp_path)], [str(tmp_path / "nowhere")]):
        found = type("Spec", (), {"submodule_search_locations": folders})
        monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda _, found=found: found)
        kernels._library.cache_clear()
        with pytest.raises(InputError, match=r"does not give ggml's quantization.*pip install"):
            kernels.pack(weight(), "Q4_0")
    kernels._library.cache_clear()
