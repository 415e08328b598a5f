"""Counts against numpy in float64, written from PROTOCOL.md section 4 and DESIGN.md section 5."""

import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quail_lightning.comparison import (
    CastWeights,
    ModelWeights,
    Questions,
    compare,
    compared_parameters,
    formats,
    key_for,
    parameter_roles,
    scan,
    tensor_grids,
    total_change,
    total_delivery,
    total_overlap,
)
from quail_lightning.errors import InputError
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.quantization import BitsAndBytes, Uniform

from .conftest import llama, nudged

ALL = Questions(bits=(16, 8, 5, 4), kinds=("minmax-floor", "minmax-round", "symmetric"))


def tensors(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def is_quantized(name):
    return name.endswith("_proj.weight")


def brute_index(weight, low, high, kind, bits):
    if kind == "symmetric":
        step = max(abs(low), abs(high)) / 2 ** (bits - 1)
        return np.clip(np.round(weight / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    step = (high - low) / 2**bits
    position = (weight - low) / step
    whole = np.floor(position) if kind == "minmax-floor" else np.round(position)
    return np.clip(whole, 0, 2**bits - 1)


def brute_value(index, low, high, kind, bits):
    if kind == "symmetric":
        return index * max(abs(low), abs(high)) / 2 ** (bits - 1)
    step = (high - low) / 2**bits
    return (index + (0.5 if kind == "minmax-floor" else 0)) * step + low


def step_of(low, high, kind, bits):
    return max(abs(low), abs(high)) / 2 ** (bits - 1) if kind == "symmetric" else (high - low) / 2**bits


def brute(before, after, kind, granularity, bits, scope):
    """overlap, own grids, with itself and expected, over all weights of the scope."""
    names = [name for name in before if scope == "all" or is_quantized(name)]
    ends = {}
    for which, weights in (("before", before), ("after", after)):
        low, high = min(weights[n].min() for n in names), max(weights[n].max() for n in names)
        ends[which] = {
            n: (low, high) if granularity == "global" else (weights[n].min(), weights[n].max()) for n in names
        }
    same = own = itself = kept = count = 0
    for n in names:
        w, v, on, at = before[n], after[n], ends["before"][n], ends["after"][n]
        index, other = brute_index(w, *on, kind, bits), brute_index(v, *at, kind, bits)
        same += (index == brute_index(v, *on, kind, bits)).sum()
        own += (index == other).sum()
        rounded = bfloat16(brute_value(other, *at, kind, bits))
        new_ends = bfloat16(brute_value(brute_index(np.array(at), *at, kind, bits), *at, kind, bits))
        itself += (brute_index(rounded, *new_ends, kind, bits) == other).sum()
        step = step_of(*on, kind, bits)
        kept += (1 - np.minimum(1, np.abs(v - w) / step)).sum() if step else (v == w).sum()
        count += w.size
    return same / count, own / count, itself / count, kept / count


def bfloat16(values):
    return torch.from_numpy(np.asarray(values)).bfloat16().double().numpy()


def compared(pair, questions=ALL, threads=2, names=None):
    with WeightFiles(str(pair[0])) as before, WeightFiles(str(pair[1])) as after:
        parameters = compared_parameters(parameter_roles(llama()), before.shapes, after.shapes)
        if names is not None:
            parameters = {name: parameters[name] for name in names}
        return compare(before, after, parameters, questions, threads=threads)


@pytest.fixture(scope="module")
def found(pair):
    """With pieces so short that tensors have several, and a last one that is shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_grids, "PIECE", 5000)
        patch.setattr(scan, "TASK", 20_000)
        return compared(pair)


@pytest.mark.parametrize("scope", ["quantized", "all"])
@pytest.mark.parametrize("bits", ALL.bits)
@pytest.mark.parametrize("granularity", ["global", "tensor"])
@pytest.mark.parametrize("kind", ALL.kinds)
def test_overlap_equals_a_brute_force_count(found, pair, kind, granularity, bits, scope):
    total = total_overlap(found.within(scope), key_for(kind, granularity, bits, scope))
    same, own, itself, kept = brute(tensors(pair[0]), tensors(pair[1]), kind, granularity, bits, scope)
    assert total.overlap == same
    assert total.own_grids == own
    assert total.with_itself == itself
    assert total.expected == pytest.approx(kept, abs=2e-4)
    assert 0 < same <= 1


def test_models_of_equal_ranges_share_their_grids():
    before, after = llama(), nudged(llama())
    with torch.no_grad():
        for old, new in zip(before.parameters(), after.parameters(), strict=True):
            low, high = old.flatten().argmin(), old.flatten().argmax()
            new.clamp_(old.min(), old.max())
            new.view(-1)[low], new.view(-1)[high] = old.min(), old.max()
    found = compare(ModelWeights(before), ModelWeights(after), parameter_roles(before), Questions())
    plain = [{n: p.detach().double().numpy() for n, p in m.named_parameters()} for m in (before, after)]
    for bits in (16, 8, 4):
        total = total_overlap(found.tensors, key_for("minmax-floor", "tensor", bits, "all"))
        same, own, *_ = brute(*plain, "minmax-floor", "tensor", bits, "all")
        assert (total.overlap, total.own_grids) == (same, own) == (same, same)


def test_the_two_ways_of_encoding_were_both_counted(found):
    sizes = {tensor.change.count for tensor in found.tensors}
    assert min(sizes) < 2**16 < max(sizes)


def test_tensor_wise_overlap_is_the_mean_weighted_by_size(found):
    key = key_for("minmax-floor", "tensor", 8, "quantized")
    parts = [(t.overlaps[key].overlap, t.change.count) for t in found.within("quantized")]
    weighted = sum(share * count for share, count in parts) / sum(count for _, count in parts)
    assert total_overlap(found.within("quantized"), key).overlap == pytest.approx(weighted, abs=1e-15)
    assert len({share for share, _ in parts}) > 1


def test_step_is_that_of_the_grid(found, pair):
    before = tensors(pair[0])
    wide = max(w.max() for w in before.values()) - min(w.min() for w in before.values())
    key = key_for("minmax-floor", "global", 4, "all")
    assert total_overlap(found.tensors, key).step == pytest.approx(wide / 16, rel=1e-12)


@pytest.mark.parametrize("scope", ["quantized", "all"])
def test_weight_change_equals_numpy(found, pair, scope):
    before, after = tensors(pair[0]), tensors(pair[1])
    names = [name for name in before if scope == "all" or is_quantized(name)]
    moved = np.abs(np.concatenate([(after[n] - before[n]).ravel() for n in names]))
    change = found.changes[scope]
    assert (change.count, change.exact_matches) == (moved.size, (moved == 0).mean())
    assert 0 < change.exact_matches < 1
    assert change.mean == pytest.approx(moved.mean(), rel=1e-6)
    assert change.rms == pytest.approx(np.sqrt((moved**2).mean()), rel=1e-6)
    assert change.largest == pytest.approx(moved.max(), rel=1e-6)
    for share in (0.5, 0.9, 0.99, 0.999):
        assert change.quantile(share) == pytest.approx(np.quantile(moved, share), rel=0.01)


def test_layers_hold_their_own_quantized_tensors(found, pair):
    layers = found.layers()
    assert list(layers) == [0, 1]
    assert {t.name for t in layers[1]} == {
        n for n in tensors(pair[0]) if n.startswith("model.layers.1.") and is_quantized(n)
    }
    assert total_change(layers[1]).count == sum(t.change.count for t in layers[1])


def test_threads_and_pieces_change_no_count(found, pair):
    alone = compared(pair, threads=1)
    for one, other in zip(alone.tensors, found.tensors, strict=True):
        assert one.name == other.name
        for key, overlap in one.overlaps.items():
            assert (overlap.same, overlap.own, overlap.itself) == (
                other.overlaps[key].same,
                other.overlaps[key].own,
                other.overlaps[key].itself,
            )


def test_equal_models_overlap_completely_and_deliver_nothing(pair):
    questions = Questions(formats=formats({"nf4": BitsAndBytes("nf4")}))
    found = compared((pair[0], pair[0]), questions)
    assert found.changes["all"].exact_matches == 1
    assert found.changes["all"].quantile(0.99) == found.changes["all"].largest == 0
    for key in questions.grids():
        total = total_overlap(found.within(key.scope), key)
        assert total.overlap == total.own_grids == total.expected == 1
    delivered = total_delivery(found.within("quantized"), "nf4")
    assert (delivered.along, delivered.norm_ratio, delivered.cosine) == (None, None, None)
    assert delivered.signal_to_noise == 0


def test_float32_models_are_counted_like_the_brute_force(tmp_path):
    before, after = llama(dtype=torch.float32), nudged(llama(dtype=torch.float32))
    roles = parameter_roles(before)
    names = {n: roles[n] for n in roles if "layers.0.mlp" in n or n.endswith("norm.weight")}
    found = compare(ModelWeights(before), ModelWeights(after), names, Questions((8, 3)), threads=2)
    plain = [{n: dict(m.named_parameters())[n].detach().double().numpy() for n in names} for m in (before, after)]
    for bits in (8, 3):
        for granularity in ("global", "tensor"):
            total = total_overlap(found.tensors, key_for("minmax-floor", granularity, bits, "all"))
            same, own, *_ = brute(*plain, "minmax-floor", granularity, bits, "all")
            assert (total.overlap, total.own_grids) == (same, own)


def test_cast_weights_are_what_loading_in_that_dtype_gives():
    model = llama(dtype=torch.float32)
    cast = CastWeights(ModelWeights(model), torch.bfloat16)
    weight = model.lm_head.weight.detach().bfloat16().flatten()
    assert cast.dtype("lm_head.weight") == torch.bfloat16
    assert torch.equal(cast.read("lm_head.weight", 3, 900), weight[3:900])


def test_a_tensor_without_range_leaves_its_bucket_when_it_moves(tmp_path):
    before, after = llama(), llama()
    with torch.no_grad():
        before.model.norm.weight.fill_(1)
        after.model.norm.weight.fill_(1)
        after.model.norm.weight[:48] += 0.5
    roles = parameter_roles(before)
    names = {n: roles[n] for n in ("model.norm.weight", "model.layers.0.mlp.up_proj.weight")}
    found = compare(ModelWeights(before), ModelWeights(after), names, Questions())
    norm = next(t for t in found.tensors if t.name == "model.norm.weight")
    for bits in (16, 8, 4):
        total = norm.overlaps[key_for("minmax-floor", "tensor", bits, "all")]
        assert total.overlap == total.expected == 0.75
        assert total.step == 0


def test_torchs_own_threads_are_restored(pair):
    before = torch.get_num_threads()
    compared((pair[0], pair[0]), Questions((4,)), names=["model.layers.0.mlp.up_proj.weight"])
    assert torch.get_num_threads() == before
    assert threading.active_count() < 20


@pytest.mark.parametrize("which", ["reference", "model"])
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (-float("inf"), "infinity")])
def test_weights_that_are_not_finite_are_refused_by_name(which, value, word):
    models = {"reference": llama(), "model": llama()}
    with torch.no_grad():
        models[which].model.layers[1].self_attn.k_proj.weight[5, 7] = value
    sources = [ModelWeights(model, f"the {name}") for name, model in models.items()]
    with pytest.raises(InputError, match=rf"{word} in model.layers.1.self_attn.k_proj.weight of the {which}"):
        compare(*sources, parameter_roles(models["model"]), Questions())


@pytest.mark.parametrize("bits", [[], [0], [17, 4]])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(InputError, match=r"bits must lie in 1 … 16"):
        Questions(bits=bits)


def test_formats_without_a_fixed_grid_are_refused():
    with pytest.raises(InputError, match=r"weights alone; got 'int8'"):
        formats({"nf4": BitsAndBytes("nf4"), "int8": BitsAndBytes("int8")})


def test_a_group_size_that_does_not_divide_is_refused_before_reading():
    model = llama()
    used = formats({"uniform4-group128": Uniform(4, "group", 128)})
    with pytest.raises(InputError, match=r"uniform4-group128 does not fit .*q_proj.weight \(192 inputs"):
        compare(ModelWeights(model), ModelWeights(model), parameter_roles(model), Questions(formats=used))


def test_float16_models_are_counted_like_the_brute_force():
    before, after = llama(dtype=torch.float16), nudged(llama(dtype=torch.float16))
    roles = parameter_roles(before)
    names = {n: roles[n] for n in roles if "layers.0.mlp" in n}
    found = compare(ModelWeights(before), ModelWeights(after), names, Questions((16, 4)), threads=2)
    plain = [{n: dict(m.named_parameters())[n].detach().double().numpy() for n in names} for m in (before, after)]
    for bits in (16, 4):
        total = total_overlap(found.tensors, key_for("minmax-floor", "global", bits, "all"))
        same, own, *_ = brute(*plain, "minmax-floor", "global", bits, "all")
        assert (total.overlap, total.own_grids) == (same, own)
