"""AdamW in three weight precisions, against AdamW written out in float64."""

import importlib.util
import io
import math
import sys

import pytest
import torch
from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.unlearning.optimizers import adamw, weight_dtype

COMBINATIONS = [
    (precision, states)
    for precision in ("float32", "bf16-stochastic", "bf16-nearest")
    for states in ("full", "8bit")
]
ON_TORCHAO = [pair for pair in COMBINATIONS if pair[0] == "bf16-stochastic" or pair[1] == "8bit"]
each_combination = pytest.mark.parametrize(("precision", "states"), COMBINATIONS)

ULP = 2**-7  # of a bfloat16 in [1, 2)


def build(parameters, precision, states="full", learning_rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999)):
    return adamw(
        parameters,
        weight_precision=precision,
        states=states,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        betas=betas,
    )


def train(parameter, optimizer, gradients):
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def constant_gradient(precision, states="full", steps=20, entries=65536, learning_rate=0.125 * ULP):
    """Weights of 1.5 after steps of AdamW that are each the learning rate long, and the optimizer."""
    torch.manual_seed(0)
    weights = nn.Parameter(torch.full((entries,), 1.5, dtype=weight_dtype(precision)))
    optimizer = build([weights], precision, states, learning_rate)
    train(weights, optimizer, [torch.ones(entries)] * steps)
    return weights.detach(), optimizer


def adamw_in_float64(weights, gradients, learning_rate, weight_decay, betas, eps=1e-8):
    """Algorithm 2 of Loshchilov & Hutter 2019, the decay scaled by the learning rate as in torch."""
    w = weights.double()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        update = (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        w = w - learning_rate * weight_decay * w - learning_rate * update
    return w, m, v


def plain(moment):
    return moment.dequantize() if hasattr(moment, "dequantize") else moment


def held_bytes(moment):
    names = getattr(moment, "tensor_attrs", ())
    parts = [getattr(moment, name) for name in names] or [moment]
    return sum(part.numel() * part.element_size() for part in parts)


def moments(optimizer):
    (state,) = optimizer.state.values()
    return [state["exp_avg"], state["exp_avg_sq"]]


# --- updates below an ulp ------------------------------------------------------------------------------


@pytest.mark.parametrize("states", ["full", "8bit"])
def test_updates_of_an_eighth_ulp_arrive_in_the_mean_under_stochastic_rounding(states):
    weights, _ = constant_gradient("bf16-stochastic", states)
    moved = (1.5 - weights.double()) / ULP
    assert torch.equal(moved, moved.round())  # ulps: the sum of 20 draws that are 1 with probability 1/8
    error = math.sqrt(20 * 0.125 * 0.875 / moved.numel())
    assert abs(moved.mean() - 2.5) < 4 * error
    assert moved.var() == pytest.approx(20 * 0.125 * 0.875, rel=0.03)


@pytest.mark.parametrize("states", ["full", "8bit"])
def test_updates_of_an_eighth_ulp_vanish_under_rounding_to_nearest(states):
    weights, _ = constant_gradient("bf16-nearest", states)
    assert torch.equal(weights, torch.full_like(weights, 1.5))


@pytest.mark.parametrize("states", ["full", "8bit"])
def test_updates_of_an_eighth_ulp_arrive_in_every_float32_weight(states):
    weights, _ = constant_gradient("float32", states)
    expected = torch.full_like(weights, 1.5 - 2.5 * ULP)
    torch.testing.assert_close(weights, expected, rtol=0, atol=20 * 2**-23)


# --- against float64 -----------------------------------------------------------------------------------


def test_float32_follows_adamw_in_float64():
    random = torch.Generator().manual_seed(1)
    start = torch.randn(500, generator=random)
    gradients = [torch.randn(500, generator=random) for _ in range(5)]
    weights = nn.Parameter(start.clone())
    optimizer = build([weights], "float32", learning_rate=1e-2, weight_decay=0.1, betas=(0.8, 0.95))
    train(weights, optimizer, gradients)
    expected, _, _ = adamw_in_float64(start, gradients, 1e-2, 0.1, (0.8, 0.95))
    torch.testing.assert_close(weights.detach().double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("states", ["full", "8bit"])
def test_a_stochastic_step_is_in_the_mean_the_step_of_adamw_in_float64(states):
    draws = 4096
    random = torch.Generator().manual_seed(2)
    start = torch.randn(16, 1, generator=random).bfloat16()
    gradient = torch.randn(16, 1, generator=random).bfloat16()
    torch.manual_seed(0)
    weights = nn.Parameter(start.repeat(1, draws))
    optimizer = build([weights], "bf16-stochastic", states, learning_rate=1e-3, weight_decay=0.5)
    train(weights, optimizer, [gradient.repeat(1, draws)])

    expected, _, _ = adamw_in_float64(start, [gradient], 1e-3, 0.5, (0.9, 0.999))
    ulp = torch.exp2(expected.abs().log2().floor() - 7)
    below = (expected / ulp).floor() * ulp
    share = (expected - below) / ulp  # probability of rounding up
    found = weights.detach().double()
    assert ((found == below) | (found == below + ulp)).all()
    error = ulp * (share * (1 - share) / draws).sqrt()
    # 2e-7 of a weight: float32 arithmetic before the rounding
    assert ((found.mean(1, keepdim=True) - expected).abs() < 4 * error + 2e-7 * expected.abs()).all()


def test_moments_beside_stochastically_rounded_weights_follow_float64():
    random = torch.Generator().manual_seed(3)
    gradients = [torch.randn(5000, generator=random).bfloat16() for _ in range(5)]
    weights = nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
    optimizer = build([weights], "bf16-stochastic")
    train(weights, optimizer, gradients)
    _, *expected = adamw_in_float64(torch.ones(5000), gradients, 1e-3, 0.0, (0.9, 0.999))
    for found, moment in zip(moments(optimizer), expected, strict=True):
        torch.testing.assert_close(found.double(), moment, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("states", ["full", "8bit"])
def test_the_second_moment_does_not_stand_still(states):
    # in bfloat16, rounded to nearest, it stops at 38 % of this
    _, optimizer = constant_gradient("bf16-stochastic", states, steps=1000, entries=4096, learning_rate=1e-6)
    expected = torch.full((4096,), 1 - 0.999**1000)
    torch.testing.assert_close(plain(moments(optimizer)[1]).float(), expected, rtol=1e-3, atol=0)


# --- memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "states", "expected"),
    [
        ("float32", "full", 16),
        ("bf16-stochastic", "full", 12),
        ("bf16-nearest", "full", 8),
        ("float32", "8bit", 10.03),
        ("bf16-stochastic", "8bit", 6.03),
        ("bf16-nearest", "8bit", 6.03),
    ],
)
def test_bytes_a_parameter_are_those_of_the_docstring(precision, states, expected):
    entries = 2**18
    weights, optimizer = constant_gradient(precision, states, steps=1, entries=entries)
    held = 2 * held_bytes(weights) + sum(held_bytes(moment) for moment in moments(optimizer))
    assert held / entries == pytest.approx(expected, abs=0.01)  # 0.008: the 8-bit code books, once a tensor


@pytest.mark.parametrize("precision", ["float32", "bf16-stochastic", "bf16-nearest"])
def test_8bit_states_are_a_byte_an_entry_and_a_scale_a_block(precision):
    _, optimizer = constant_gradient(precision, "8bit", steps=1, entries=4096)
    for moment in moments(optimizer):
        assert moment.codes.dtype == torch.uint8
        assert held_bytes(moment) == 4096 + 4 * 4096 // 256 + 4 * 256  # codes, scales, code book


@pytest.mark.parametrize("entries", [4095, 4097])
def test_moments_of_small_or_uneven_tensors_stay_in_float32(entries):
    _, optimizer = constant_gradient("bf16-stochastic", "8bit", steps=1, entries=entries)
    assert [plain(moment) is moment for moment in moments(optimizer)] == [True, True]
    assert [moment.dtype for moment in moments(optimizer)] == [torch.float32] * 2


# --- resuming and repeating ----------------------------------------------------------------------------


@each_combination
def test_a_resumed_run_equals_an_uninterrupted_one(precision, states):
    random = torch.Generator().manual_seed(4)
    shapes = [(64, 64), (10,)]  # 8-bit moments, and those too small for them

    def run(weights, optimizer, gradients):
        for step in gradients:
            for parameter, gradient in zip(weights, step, strict=True):
                parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()

    def start():
        weights = [nn.Parameter(torch.ones(shape, dtype=weight_dtype(precision))) for shape in shapes]
        return weights, build(weights, precision, states, weight_decay=0.1)

    gradients = [[torch.randn(shape, generator=random) for shape in shapes] for _ in range(6)]
    torch.manual_seed(5)
    weights, optimizer = start()
    run(weights, optimizer, gradients[:3])
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), [p.detach() for p in weights], torch.get_rng_state()], file)
    run(weights, optimizer, gradients[3:])

    resumed, other = start()
    file.seek(0)
    state, saved, generator = torch.load(file, map_location=lambda storage, location: storage)  # as Lightning does
    for parameter, value in zip(resumed, saved, strict=True):
        parameter.data.copy_(value)
    other.load_state_dict(state)
    torch.set_rng_state(generator)
    run(resumed, other, gradients[3:])

    for a, b in zip(weights, resumed, strict=True):
        assert torch.equal(a, b)
        for name, moment in optimizer.state[a].items():
            assert torch.equal(plain(moment), plain(other.state[b][name])), name
            assert moment.dtype == other.state[b][name].dtype, name


def test_one_seed_gives_one_result_and_another_seed_another():
    def run(seed):
        torch.manual_seed(seed)
        weights = nn.Parameter(torch.full((4096,), 1.5, dtype=torch.bfloat16))
        train(weights, build([weights], "bf16-stochastic"), [torch.ones(4096)] * 3)
        return weights.detach()

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


# --- an ordinary optimizer -----------------------------------------------------------------------------


@each_combination
def test_the_learning_rate_reads_as_a_number(precision, states):
    optimizer = build([nn.Parameter(torch.ones(4))], precision, states, learning_rate=1e-5)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(1e-5, rel=1e-6)


def test_float32_parameters_among_bfloat16_ones_are_not_rounded():
    norm = nn.Parameter(torch.full((10,), 1.5))
    train(norm, build([norm], "bf16-stochastic", learning_rate=0.125 * ULP), [torch.ones(10)])
    torch.testing.assert_close(norm.detach(), torch.full((10,), 1.5 - 0.125 * ULP), rtol=0, atol=2**-22)


@pytest.mark.parametrize(("precision", "states"), ON_TORCHAO)
def test_nothing_is_compiled_on_cpus(monkeypatch, precision, states):
    def no_compiler(*args, **kwargs):
        raise AssertionError("compiled")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", no_compiler)
    constant_gradient(precision, states, steps=1, entries=4096)


def test_only_the_step_itself_is_kept_from_being_compiled():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    @torch.compile(backend=backend)
    def loss(x):
        return (x * x).sum()

    @torch.compile(backend=backend)
    def later(x):
        return x + 1

    weights = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    weights.grad = torch.ones_like(weights)
    assert build([weights], "bf16-stochastic").step(lambda: loss(weights)) == 4
    assert len(compiled) == 1
    later(weights)
    assert len(compiled) == 2


@each_combination
def test_without_torchao_the_error_names_the_remedy(monkeypatch, precision, states):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert importlib.util.find_spec("torchao") is None
    if (precision, states) not in ON_TORCHAO:
        build([nn.Parameter(torch.ones(4))], precision, states)
        return
    with pytest.raises(InputError, match="pip install torchao"):
        build([nn.Parameter(torch.ones(4))], precision, states)
