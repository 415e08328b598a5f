"""What the Term protocol promises, for every term of the loss."""

import inspect
import math

import pytest
import torch
from jsonargparse import ArgumentParser

import quail_lightning.objectives as objectives
from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.objectives import Needs, Term, TermInputs
from quail_lightning.run.processes import Processes
from quail_lightning.unlearning.division import passes

BATCH, TIME, VOCABULARY, WIDTH = 2, 5, 7, 6

TERMS = {
    "GA": ("GradientAscent", {}),
    "GDR": ("GradientDescent", {}),
    "KLR": ("KLRetention", {}),
    "KLR reversed": ("KLRetention", {"direction": "target-unlearned"}),
    "NPO": ("NegativePreference", {}),
    "NPO per token": ("NegativePreference", {"beta": 10.0, "per_token": True}),
    "DPO": ("DirectPreference", {}),
    "DPO per token": ("DirectPreference", {"beta": 3.0, "per_token": True}),
    "SimNPO": ("SimplePreference", {"beta": 0.5}),
    "SimNPO with a margin": ("SimplePreference", {"beta": 0.7, "margin": 3.0}),
    "IHL": ("InvertedHinge", {}),
    "WGA": ("WeightedAscent", {}),
    "WGA, β 0": ("WeightedAscent", {"beta": 0.0}),
    "PDU": ("MarginFlattening", {}),
    "SatImp": ("SaturationImportance", {"beta1": 0.5}),
    "CE-U": ("CrossEntropyUnlearning", {}),
    "UNDIAL": ("AdjustedDistillation", {}),
    "similar labels": ("SimilarLabels", {}),
    "hinge": ("LogitHinge", {}),
    "smooth hinge": ("LogitHinge", {"step": 2.0, "form": "smooth", "softness": 0.2}),
    "quadratic hinge": ("LogitHinge", {"form": "quadratic", "dead_zone": 0.0}),
    "exponential hinge": ("LogitHinge", {"form": "exponential", "rate": 2.0}),
    "centred hinge": ("LogitHinge", {"centred": True}),
    "layer hinge": ("LayerHinge", {"step": 1.0}),
    "layer hinge, one layer": ("LayerHinge", {"layers": [1], "step": 1.0, "dead_zone": 0.0}),
    "RMU": ("Misdirection", {"layer": 1, "coefficient": 2.0, "seed": 5}),
    "RMU, share of the depth": ("Misdirection", {}),
    "RMU retain": ("RepresentationRetention", {"layer": 0.5}),
}

REMADE = ("WGA", "SatImp", "CE-U")
"""Terms whose weight or goal is made anew from the logits in each step and takes no gradient."""

named = pytest.mark.parametrize("name", TERMS)


def parse(name, init_args):
    """As a config does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--term", type=Term)
    given = {"class_path": f"quail_lightning.objectives.{name}", "init_args": init_args}
    return parser.instantiate_classes(parser.parse_object({"term": given})).term


@pytest.fixture
def term(name):
    return parse(*TERMS[name])


class Scene:
    """A model's outputs on one batch, which take the gradient, and a target's, which lie near them."""

    def __init__(self, padded=0, windows=BATCH):
        generator = torch.Generator().manual_seed(16)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.logits, self.states = draw(windows, TIME - 1, VOCABULARY), draw(2, windows, TIME, WIDTH)
        self.target_logits = self.logits + 0.2 * draw(*self.logits.shape)
        self.target_states = self.states + 0.2 * draw(*self.states.shape)
        self.labels = torch.randint(VOCABULARY, (windows, TIME - 1), generator=generator)
        if padded:
            self.labels[-1, -padded:] = IGNORED
        self.logits.requires_grad_()
        self.states.requires_grad_()

    def seen(self, term, windows=slice(None)):
        """Only what the term asked for; an alternate answer has other tokens at the same positions."""
        if not term.needs.alternate:
            return self.answer(term, self.labels, windows)
        others = torch.where(self.labels == IGNORED, IGNORED, (self.labels + 3) % VOCABULARY)
        alternate = self.answer(term, others, windows)
        return self.answer(term, self.labels, windows)._replace(alternate=alternate)

    def answer(self, term, every_label, windows):
        """With these labels; log f(y|x) of the target is summed over its real tokens."""
        needs, logits, labels = term.needs, self.logits[windows], every_label[windows]
        target = self.target_logits[windows] if "logits" in needs.frozen else None
        likelihood = torch.zeros(len(every_label), dtype=torch.float64)
        for b, t in zip(*torch.where(every_label != IGNORED), strict=True):
            likelihood[b] += self.target_logits[b, t].log_softmax(-1)[every_label[b, t]]
        layers = range(2) if needs.layers is None else needs.layers
        rows = {layer: layer if isinstance(layer, int) else 0 for layer in layers}
        return TermInputs(
            labels,
            tuple(function(logits, labels, target) for function in needs.tokens),
            {layer: self.states[row, windows] for layer, row in rows.items()},
            likelihood[windows] if "likelihood" in needs.frozen else None,
            {layer: self.target_states[row, windows] for layer, row in rows.items() if "layers" in needs.frozen},
        )

    def loss(self, term):
        return term.loss(self.seen(term))

    def gradients(self, term, loss=None):
        """[logits, states] of the term's loss, or of another; None where the term does not look."""
        loss = self.loss(term) if loss is None else loss
        return torch.autograd.grad(loss, [self.logits, self.states], allow_unused=True)


def test_every_term_that_is_exported_stands_in_this_contract():
    exported = {
        name
        for name in objectives.__all__
        if inspect.isclass(thing := getattr(objectives, name)) and hasattr(thing, "loss") and thing is not Term
    }
    assert exported == {class_name for class_name, _ in TERMS.values()}


@named
def test_a_config_s_class_path_and_init_args_give_a_term(name, term):
    class_name, init_args = TERMS[name]
    assert type(term) is getattr(objectives, class_name)
    assert isinstance(term, Term)
    for argument, value in init_args.items():
        kept = getattr(term, argument)
        assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("class_name", sorted({class_name for class_name, _ in TERMS.values()}))
def test_a_misspelt_argument_is_refused(class_name):
    with pytest.raises(Exception, match="stepp"):
        parse(class_name, {"stepp": 1.0})


@pytest.mark.parametrize("class_name", ["LogitHinge", "LayerHinge"])
def test_a_step_to_be_measured_is_written_as_its_fields(class_name):
    term = parse(class_name, {"step": {"precision": "int4", "quantile": 0.5, "max_windows": 4}})
    assert term.step == objectives.MeasuredStep("int4", 0.5, 4)


@named
def test_what_it_needs_is_stated_and_stays_the_same(term):
    assert isinstance(term.needs, Needs)
    assert term.needs == term.needs
    assert term.needs.tokens or term.needs.layers != ()
    assert term.needs.frozen <= {"logits", "likelihood", "layers"}


@named
def test_the_loss_is_a_finite_scalar_with_a_gradient_in_what_it_reads(term):
    scene = Scene()
    loss = scene.loss(term)
    assert loss.shape == ()
    assert loss.dtype in (torch.float32, torch.float64)
    assert math.isfinite(loss.item())
    logits, states = scene.gradients(term)
    assert (logits is not None) == bool(term.needs.tokens)
    assert (states is not None) == (term.needs.layers != ())
    for gradient in (logits, states):
        assert gradient is None or (torch.isfinite(gradient).all() and gradient.abs().max() > 1e-4)


@named
def test_the_same_input_gives_the_same_loss_and_leaves_the_random_state_alone(name, term):
    scene, before = Scene(), torch.get_rng_state()
    first, gradients = scene.loss(term), scene.gradients(term)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = parse(*TERMS[name])
    for other in (term, again):
        assert torch.equal(scene.loss(other), first)
        for one, two in zip(scene.gradients(other), gradients, strict=True):
            assert (one is None and two is None) or torch.equal(one, two)


def after_a_step(term):
    scene = Scene()
    for leaf, gradient in zip((scene.logits, scene.states), scene.gradients(term), strict=True):
        if gradient is not None:
            leaf.data -= 0.5 * gradient
    return scene


@pytest.mark.parametrize("name", [name for name in TERMS if name not in REMADE])
def test_a_step_against_the_gradient_lowers_the_loss(term):
    assert after_a_step(term).loss(term) < Scene().loss(term)


@pytest.mark.parametrize("name", REMADE)
def test_a_step_against_a_remade_loss_makes_each_true_token_less_likely(term):
    before, after = (
        scene.logits.log_softmax(-1).gather(-1, scene.labels[..., None]) for scene in (Scene(), after_a_step(term))
    )
    assert (after < before).all()


@named
def test_padded_positions_do_not_count(term):
    padded, spoilt = Scene(padded=2), Scene(padded=2)
    with torch.no_grad():
        spoilt.logits[-1, -2:] = 1000 * torch.arange(2 * VOCABULARY).view(2, VOCABULARY)
        spoilt.states[:, -1, -2:] = 1000
        spoilt.target_logits[-1, -2:] = spoilt.target_states[:, -1, -2:] = -7.0
    assert torch.equal(spoilt.loss(term), padded.loss(term))
    assert padded.loss(term) != Scene().loss(term)
    for of_spoilt, of_padded in zip(spoilt.gradients(term), padded.gradients(term), strict=True):
        if of_spoilt is not None:
            assert torch.count_nonzero(of_spoilt[..., -1, -2:, :]) == 0
            assert torch.count_nonzero(of_padded[..., -1, :-2, :]) > 0


@named
def test_a_batch_of_padding_gives_no_loss_and_no_gradient(term):
    scene = Scene()
    scene.labels.fill_(IGNORED)
    assert scene.loss(term) == 0
    for gradient in scene.gradients(term):
        assert gradient is None or torch.count_nonzero(gradient) == 0


@named
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("most", [1, 2])
def test_passes_over_unevenly_masked_windows_add_up_to_the_whole_step(term, most, processes):
    scene = Scene(windows=5)
    scene.labels[0, :3] = scene.labels[2, 1:] = scene.labels[3] = scene.labels[4, 0] = IGNORED
    labels = torch.cat([torch.zeros(5, 1, dtype=torch.int64), scene.labels], dim=1)
    step, terms = TokenBatch(labels, labels, torch.arange(5)), {"x": term}
    summed = sum(
        share.of({"x": term.loss(scene.seen(term, part.window))}, terms)["x"]
        for rank in range(processes)
        for part, share in passes(step, most, Processes(rank, processes))
    )
    torch.testing.assert_close(summed, scene.loss(term), rtol=1e-6, atol=0)
    for found, expected in zip(scene.gradients(term, summed), scene.gradients(term), strict=True):
        assert (found is None and expected is None) or torch.allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in TERMS if parse(*TERMS[n]).needs.frozen & {"logits", "likelihood"}])
def test_without_a_reference_it_says_that_there_is_none(term):
    scene = Scene()
    with pytest.raises(InputError, match="no reference gives its outputs"):
        term.loss(TermInputs(scene.labels, tuple(f(scene.logits, scene.labels, None) for f in term.needs.tokens)))


@named
def test_it_describes_itself_by_its_attributes(term):
    parameters = set(inspect.signature(type(term)).parameters)
    described = vars(term)
    assert parameters <= set(described)
    assert not any(isinstance(value, torch.Tensor) for value in described.values())


@named
def test_computing_a_loss_changes_nothing_about_the_term(term):
    before = dict(vars(term))
    Scene().loss(term)
    assert vars(term) == before
