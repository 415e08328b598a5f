"""A checkpoint filled weight by weight is the one that transformers loads; here on a mesh of one process."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.models.sharded import inside, is_sharded, share, spread_like, whole, whole_head
from quail_lightning.models.sharded_loading import cast_shards, load_sharded
from quail_lightning.quantization import computing


@pytest.fixture
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path, tiny_llama):
    model = tiny_llama(tied=request.param)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_buffers_and_logits_are_those_of_the_whole_model(dtype, folder, mesh):
    expected, state = load_model(str(folder), dtype), torch.random.get_rng_state()
    model = load_sharded(str(folder), dtype, mesh, None)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert is_sharded(model)
    assert not model.training
    found = dict(model.named_parameters())
    assert found.keys() == dict(expected.named_parameters()).keys()
    for name, parameter in expected.named_parameters():
        assert found[name].dtype == dtype
        assert torch.equal(whole(found[name]), parameter), name
    for name, buffer in expected.named_buffers():
        assert model.get_buffer(name).dtype == buffer.dtype == torch.float32
        assert torch.equal(model.get_buffer(name), buffer), name
    assert torch.equal(whole_head(model).weight, expected.get_output_embeddings().weight)
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.no_grad(), computing(expected):
        assert torch.equal(inside(model, lambda: model(input_ids=ids).logits), expected(input_ids=ids).logits)


def test_a_copy_in_another_dtype_is_sharded_and_shares_nothing(folder, mesh):
    model = load_sharded(str(folder), torch.float32, mesh, None).train()
    model.generation_config.max_new_tokens = 11
    copied = cast_shards(model, torch.bfloat16)
    assert is_sharded(copied)
    assert not copied.training
    assert model.training
    assert (copied.dtype, copied.config.dtype, copied.generation_config.max_new_tokens) == (
        *[torch.bfloat16] * 2,
        11,
    )
    for name, parameter in model.named_parameters():
        found = copied.get_parameter(name)
        assert torch.equal(whole(found), whole(parameter).bfloat16()), name
        assert not found.requires_grad
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) == model.config.tie_word_embeddings
    again = cast_shards(model, torch.float32)
    with torch.no_grad():
        share(again.model.norm.weight).fill_(7)
    assert torch.equal(whole(model.model.norm.weight), torch.ones(64))


def test_a_copy_can_hold_weights_that_were_moved(folder, mesh):
    model = load_sharded(str(folder), torch.float32, mesh, None)
    copied = cast_shards(model, torch.float32, lambda name, weight: 2 * weight if "norm" in name else weight)
    for name, parameter in model.named_parameters():
        factor = 2 if "norm" in name else 1
        assert torch.equal(whole(copied.get_parameter(name)), factor * whole(parameter)), name


def test_a_model_stored_in_several_files_is_found_by_its_index(tmp_path, tiny_llama, mesh):
    model = tiny_llama()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for name, parameter in load_sharded(str(tmp_path), torch.float32, mesh, None).named_parameters():
        assert torch.equal(whole(parameter), model.get_parameter(name)), name


def test_a_weight_under_another_name_is_refused(folder, mesh):
    stored = load_file(folder / "model.safetensors")
    stored["other"] = stored.pop("model.norm.weight")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight missing; other in the files"):
        load_sharded(str(folder), torch.float32, mesh, None)


def test_a_folder_without_safetensors_is_refused(folder, mesh):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no safetensors"):
        load_sharded(str(folder), torch.float32, mesh, None)


def test_a_mask_is_laid_out_as_its_weight(folder, mesh):
    weight = load_sharded(str(folder), torch.float32, mesh, None).model.layers[0].self_attn.q_proj.weight
    for mask in (torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1])):
        mask.view(-1)[::2] = 0
        assert torch.equal(whole(weight * spread_like(mask, weight)), whole(weight) * mask)


def test_a_model_that_is_not_sharded_is_left_as_it_is(tiny_llama):
    model = tiny_llama()
    assert not is_sharded(model)
    assert inside(model, lambda: 7) == 7
    assert whole_head(model).weight is model.lm_head.weight
