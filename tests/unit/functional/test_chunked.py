"""Losses on the head in chunks against the same functions of all logits at once and finite differences."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quail_lightning.functional.chunked import chunk_tokens, head_terms
from quail_lightning.functional.divergence import kl_divergence
from quail_lightning.functional.head import Head
from quail_lightning.functional.hinge import hinge
from quail_lightning.functional.token_likelihood import IGNORED, log_likelihood

BATCH, TIME, WIDTH, VOCABULARY = 2, 5, 6, 11
COUNT = BATCH * TIME


def kl(logits, labels, reference):
    return kl_divergence(logits, reference)


def smooth_hinge(logits, labels, reference):
    return hinge(logits, reference, 1.0, form="smooth")


FUNCTIONS = (log_likelihood, kl, smooth_hinge)
FACTORS = (1.0, -0.7, 2.5)  # of the functions' sums, so that none hides behind another


class Case:
    """Everything a call needs, in one dtype; the reference is plain logits."""

    def __init__(self, dtype=torch.float32, biased=True, scale=1.0, softcap=None, seed=12):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

        self.hidden, self.weight = draw(BATCH, TIME, WIDTH), draw(VOCABULARY, WIDTH)
        self.bias = draw(VOCABULARY) if biased else None
        self.labels = torch.randint(VOCABULARY, (BATCH, TIME), generator=generator)
        self.labels[1, -1] = IGNORED
        self.reference = draw(COUNT, VOCABULARY).detach()
        self.scale, self.softcap = scale, softcap

    @property
    def head(self):
        return Head(self.weight, self.bias, self.scale, self.softcap)

    @property
    def leaves(self):
        return [leaf for leaf in (self.hidden, self.weight, self.bias) if leaf is not None and leaf.requires_grad]

    def chunked(self, functions=FUNCTIONS, **other):
        reference = self.reference
        return head_terms(self.hidden, self.labels, self.head, functions, lambda rows: reference[rows], **other)

    def plain(self, functions=FUNCTIONS):
        """The model's formula on all logits at once."""
        logits = self.hidden @ self.weight.T
        logits = (logits if self.bias is None else logits + self.bias) * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        reference = self.reference.view(BATCH, TIME, VOCABULARY)
        return tuple(function(logits, self.labels, reference) for function in functions)

    def gradients(self, values, inputs=None):
        # the tokens weigh differently, so that none can stand for another
        weights = torch.linspace(0.5, 1.5, COUNT).view(BATCH, TIME)
        total = sum(factor * (weights * value).sum() for factor, value in zip(FACTORS, values, strict=False))
        return torch.autograd.grad(total, inputs or self.leaves)


FINISHES = [{}, {"biased": False}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 1.7, "softcap": 1.5}]
CHUNKS = (1, 3, COUNT, 1000, None)  # single tokens, one that does not divide, all, more than all, the default


@pytest.mark.parametrize("finish", FINISHES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradients_equal_finite_differences_in_float64(finish, count):
    case = Case(torch.float64, **finish)

    def call(hidden, weight, bias=None):
        head = Head(weight, bias, case.scale, case.softcap)
        return head_terms(
            hidden, case.labels, head, FUNCTIONS[:count], lambda rows: case.reference[rows], tokens=3
        )

    assert torch.autograd.gradcheck(call, case.leaves)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("finish", FINISHES, ids=str)
def test_values_and_gradients_equal_those_from_all_logits_in_float64(finish, chunk):
    case = Case(torch.float64, **finish)
    found, expected = case.chunked(tokens=chunk), case.plain()
    assert [value.shape for value in found] == [(BATCH, TIME)] * 3
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(case.gradients(found), case.gradients(expected), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("chunk", "count"), product(CHUNKS, (1, 2, 3)))
def test_values_and_gradients_equal_those_from_all_logits_in_float32(chunk, count):
    case = Case()
    found, expected = case.chunked(FUNCTIONS[:count], tokens=chunk), case.plain(FUNCTIONS[:count])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(case.gradients(found), case.gradients(expected), rtol=1e-5, atol=1e-6)


def test_the_log_likelihood_equals_a_softmax_written_out():
    case = Case(torch.float64, scale=0.5)
    (found,) = case.chunked([log_likelihood], tokens=4)
    hidden, weight, bias = (leaf.detach().numpy() for leaf in case.leaves)
    for b, t in product(range(BATCH), range(TIME)):
        z = [0.5 * (sum(weight[v] * hidden[b, t]) + bias[v]) for v in range(VOCABULARY)]
        label = case.labels[b, t].item()
        expected = 0.0 if label == IGNORED else z[label] - math.log(sum(math.exp(value) for value in z))
        assert math.isclose(found[b, t].item(), expected, rel_tol=1e-12)


def test_a_function_that_the_loss_leaves_out_adds_no_gradient():
    case = Case(torch.float64)
    first, _, _ = case.chunked(tokens=3)
    torch.testing.assert_close(case.gradients([first]), case.gradients(case.plain()[:1]), rtol=1e-12, atol=1e-14)


def test_gradients_into_an_embedding_that_is_also_the_head_add_up():
    generator = torch.Generator().manual_seed(13)
    table = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    mixing = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    ids = torch.randint(VOCABULARY, (BATCH, TIME + 1), generator=generator)

    def body():
        return torch.tanh(nn.functional.embedding(ids[:, :-1], table) @ mixing)

    def gradient(values):
        return torch.autograd.grad(values.sum(), table)[0]

    found = gradient(head_terms(body(), ids[:, 1:], Head(table), [log_likelihood], tokens=3)[0])
    expected = gradient(log_likelihood(body() @ table.T, ids[:, 1:], None))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    head_only = gradient(log_likelihood(body().detach() @ table.T, ids[:, 1:], None))
    assert not torch.allclose(found, head_only)


def test_a_frozen_head_receives_no_gradient():
    case = Case()
    expected = case.gradients(case.plain(), [case.hidden])
    case.weight.requires_grad_(False)
    case.bias.requires_grad_(False)
    torch.testing.assert_close(case.gradients(case.chunked(tokens=3)), expected, rtol=1e-5, atol=1e-6)
    case.chunked(tokens=3)[0].sum().backward()
    assert case.hidden.grad is not None
    assert case.weight.grad is None
    assert case.bias.grad is None


@pytest.mark.parametrize("only", ["weight", "bias"])
def test_hidden_states_without_gradient_leave_the_head_its_own(only):
    case = Case()
    leaf = getattr(case, only)
    expected = case.gradients(case.plain(), [leaf])
    for other in case.leaves:
        other.requires_grad_(other is leaf)
    torch.testing.assert_close(case.gradients(case.chunked(tokens=3)), expected, rtol=1e-5, atol=1e-6)


def test_without_gradient_nothing_is_kept():
    with torch.no_grad():
        values = Case().chunked()
    assert not any(value.requires_grad for value in values)


def test_no_gradient_flows_into_the_reference():
    case = Case()
    case.reference.requires_grad_()
    sum(value.sum() for value in case.chunked(tokens=3)).backward()
    assert case.reference.grad is None


def test_hidden_states_may_be_a_slice_of_longer_windows():
    case = Case()
    longer = torch.cat([case.hidden, torch.full((BATCH, 1, WIDTH), 7.0)], dim=1).detach().requires_grad_()
    case.hidden = longer[:, :-1]
    assert not case.hidden.is_contiguous()
    found, expected = (case.gradients(values, [longer])[0] for values in (case.chunked(tokens=3), case.plain()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:, -1], torch.zeros(BATCH, WIDTH))


# --- dtypes -----------------------------------------------------------------------------------------------


def test_the_product_runs_in_the_dtype_asked_for_and_the_rest_in_float32():
    case, seen = Case(), []

    def watch(logits, labels, reference):
        seen.append(logits.dtype)
        return log_likelihood(logits, labels, reference)

    (found,) = case.chunked([watch], dtype=torch.bfloat16, tokens=3)
    rounded = (case.hidden.bfloat16() @ case.weight.bfloat16().T).float() + case.bias
    expected = log_likelihood(rounded, case.labels, None)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float32
    assert set(seen) == {torch.float32}
    assert [gradient.dtype for gradient in case.gradients([found])] == [torch.float32] * 3


def test_the_head_s_gradient_is_summed_in_float32_whatever_the_dtype_of_the_product():
    generator = torch.Generator().manual_seed(14)
    tokens, width, vocabulary, chunk = 512, 4, 8, 2
    hidden = 1 + 0.1 * torch.randn(1, tokens, width, generator=generator)  # one sign: the sum grows
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
    labels = torch.zeros(1, tokens, dtype=torch.long)
    (values,) = head_terms(hidden, labels, Head(weight), [log_likelihood], dtype=torch.bfloat16, tokens=chunk)
    (found,) = torch.autograd.grad(values.sum(), weight)

    # ∂ log f(y) / ∂z = 1_y − p, rounded to the product's dtype; chunk by chunk in both ways of summing
    logits = (hidden[0].bfloat16() @ weight.detach().bfloat16().T).float()
    slopes = (torch.eye(vocabulary)[labels[0]] - logits.softmax(-1)).bfloat16()
    parts = [
        slopes[n : n + chunk].T @ hidden[0, n : n + chunk].bfloat16() for n in range(0, tokens, chunk)
    ]  # bfloat16
    in_float32, in_bfloat16 = torch.zeros(vocabulary, width), torch.zeros(vocabulary, width).bfloat16()
    for part in parts:
        in_float32 += part
        in_bfloat16 += part
    torch.testing.assert_close(found, in_float32, rtol=1e-4, atol=1e-4)
    exact = slopes.double().T @ hidden[0].bfloat16().double()
    assert (found - exact).norm() < 0.005 * exact.norm()
    assert (in_bfloat16 - exact).norm() > 0.05 * exact.norm()  # increments below half an ulp of the sum are lost


def test_a_bfloat16_head_receives_a_bfloat16_gradient():
    case = Case(torch.bfloat16)
    found = case.gradients(case.chunked([log_likelihood], tokens=3))
    assert [gradient.dtype for gradient in found] == [torch.bfloat16] * 3
    wide = Case()  # the same draws before rounding
    expected = wide.gradients(wide.plain([log_likelihood]))
    for gradient, exact in zip(found, expected, strict=True):
        assert (gradient.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("around", ["forward", "both"])
def test_autocast_around_the_call_changes_nothing(dtype, around):
    # Lightning's manual optimization also calls backward within the training step's autocast.
    case = Case()
    expected = case.chunked(dtype=dtype, tokens=3)
    slopes = case.gradients(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = case.chunked(dtype=dtype, tokens=3)
        if around == "both":
            gradients = case.gradients(found)
    if around == "forward":
        gradients = case.gradients(found)
    for one, other in zip((*found, *gradients), (*expected, *slopes), strict=True):
        assert torch.equal(one, other)


# --- memory -----------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Entries of the largest tensor that any operation gives; number of matrix products."""

    entries = products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        self.products += function.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        for leaf in tree_leaves(given):
            if isinstance(leaf, torch.Tensor):
                self.entries = max(self.entries, leaf.numel())
        return given


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_ever_holds_more_than_one_chunk_s_logits(dtype):
    batch, time, width, vocabulary, chunk = 2, 32, 4, 50, 8
    generator = torch.Generator().manual_seed(15)
    hidden = torch.randn(batch, time, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
    target = torch.randn(vocabulary, width, generator=generator)
    labels = torch.randint(vocabulary, (batch, time), generator=generator)
    flat = hidden.detach().flatten(0, 1)

    def rows(rows):
        return flat[rows] @ target.T

    with Watch() as chunked:
        values = head_terms(hidden, labels, Head(weight), FUNCTIONS, rows, dtype=dtype, tokens=chunk)
        sum(value.sum() for value in values).backward()
    assert chunked.entries == chunk * vocabulary
    with Watch() as plain:
        log_likelihood(hidden @ weight.T, labels, None).sum().backward()
    assert plain.entries >= batch * time * vocabulary  # the watch sees what it is to see


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_no_product_is_spent_on_a_gradient_that_nobody_wants(frozen):
    def products(case):
        with Watch() as watch:
            case.chunked([log_likelihood], tokens=COUNT)[0].sum().backward()
        return watch.products

    part = Case()
    getattr(part, frozen).requires_grad_(False)
    assert products(Case()) == 4  # forward, again in backward, and one for each gradient
    assert products(part) == 3


def test_the_reference_is_asked_for_each_chunk_once_a_pass_and_in_order():
    case, asked = Case(), []

    def rows(rows):
        asked.append((rows.start, rows.stop))
        return case.reference[rows]

    (values,) = head_terms(case.hidden, case.labels, case.head, [kl], rows, tokens=4)
    assert asked == [(0, 4), (4, 8), (8, 10)]
    values.sum().backward()
    assert asked == [(0, 4), (4, 8), (8, 10)] * 2


def test_second_derivatives_are_refused_and_not_wrong():
    case = Case()
    (values,) = case.chunked([log_likelihood])
    (gradient,) = torch.autograd.grad(values.square().sum(), case.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("vocabulary", "width", "device", "expected"),
    [
        (32000, 4096, "cpu", 512),  # an eighth of the width, where 131 would fill 16 MiB
        (32000, 256, "cpu", 131),  # 16 MiB of float32
        (256000, 256, "cpu", 64),  # the fewest
        (32000, 4096, "cuda", 2097),  # 256 MiB
        (300, 256, "cpu", 4096),  # the most
    ],
)
def test_a_chunk_s_logits_fit_but_keep_the_product_large_enough(vocabulary, width, device, expected):
    assert chunk_tokens(vocabulary, width, device) == expected
