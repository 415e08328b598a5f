"""The latent adversary on functions with a known minimum, on a model, and in a fit."""

import pytest
import torch
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.models.activations import activations
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, Misdirection, RepresentationRetention
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adversary import LatentAdversary

LIKE = torch.zeros(1)


def goals(length):
    """[2, 3, 4]: per token a point at this distance from 0."""
    drawn = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    return length * drawn / drawn.norm(dim=-1, keepdim=True)


def squared_distance(goal, layer=5):
    return lambda shifts: (shifts[layer] - goal).square().sum()


def test_a_minimum_within_the_ball_is_found():
    goal = goals(1.0)
    found = LatentAdversary(radius=2.0, steps=40, step_size=0.05).search(
        squared_distance(goal), goal.shape, [5], LIKE
    )
    assert found.keys() == {5}
    assert (found[5] - goal).norm(dim=-1).max() <= 0.1 + 1e-5  # one step's length
    assert not found[5].requires_grad


def test_of_a_minimum_outside_the_nearest_point_of_the_ball_is_found():
    goal = goals(5.0)
    found = LatentAdversary(radius=2.0, steps=6, step_size=0.25).search(
        squared_distance(goal), goal.shape, [5], LIKE
    )
    torch.testing.assert_close(found[5], goal * 2 / 5)


def test_each_tokens_step_has_its_own_length():
    """One token's gradient a million times the others': each still moves by step_size · radius."""
    goal, scale = goals(5.0), torch.tensor([1e-3, 1.0, 1e3]).view(1, 3, 1)

    def loss(shifts):
        return (scale * (shifts[0] - goal).square()).sum()

    found = LatentAdversary(radius=2.0, steps=1, step_size=0.25).search(loss, goal.shape, [0], LIKE)
    torch.testing.assert_close(found[0], goal / 5 * 0.5)


def test_no_tokens_perturbation_is_longer_than_the_radius():
    drawn = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    found = LatentAdversary(radius=0.7, steps=5, step_size=3.0).search(
        lambda shifts: (drawn * shifts[0].sin()).sum() + shifts[1].square().sum(), drawn.shape, [0, 1], LIKE
    )
    for shift in found.values():
        assert shift.norm(dim=-1).max() <= 0.7 * (1 + 1e-6)


def test_a_token_without_gradient_stays_where_it_is():
    found = LatentAdversary().search(lambda shifts: shifts[0][:, 0].sum(), (1, 2, 4), [0], LIKE)
    torch.testing.assert_close(found[0][:, 0], torch.full((1, 4), -1.0))  # norm 2, down along all entries
    assert torch.equal(found[0][:, 1], torch.zeros(1, 4))


@pytest.fixture
def windows(corpus_folder, deep):
    data = data_module(corpus_folder, deep)
    data.setup("fit")
    ids = data.served.trained.forget
    return TokenBatch(ids, ids, torch.arange(len(ids)))


def nll(model, ids, shifts):
    """By hooks of our own and transformers' loss."""
    handles = [
        model.model.layers[layer].register_forward_hook(lambda _, __, output, shift=shift: output + shift)
        for layer, shift in shifts.items()
    ]
    with torch.no_grad():
        found = model(input_ids=ids, labels=ids).loss.item()
    for handle in handles:
        handle.remove()
    return found


def test_an_attack_brings_the_forget_windows_back_and_leaves_the_model_alone(windows, deep):
    model = load_model(deep, torch.float32)
    before = {name: value.clone() for name, value in model.named_parameters()}
    adversary = LatentAdversary(layers=[0, 0.9], radius=1.0)
    shifts = adversary.attack(model, windows, activations, torch.float32)
    assert shifts.keys() == {0, 2}
    assert all(shift.shape == (*windows.input_ids.shape, 64) for shift in shifts.values())
    assert all(shift.norm(dim=-1).max() <= 1 + 1e-6 for shift in shifts.values())
    plain = nll(model, windows.input_ids, {})
    assert nll(model, windows.input_ids, shifts) < plain - 0.5
    generator = torch.Generator().manual_seed(3)
    noise = {layer: torch.randn(shift.shape, generator=generator) for layer, shift in shifts.items()}
    noise = {layer: shift / shift.norm(dim=-1, keepdim=True) for layer, shift in noise.items()}
    assert abs(nll(model, windows.input_ids, noise) - plain) < 0.25  # it is the direction that does it
    for name, value in model.named_parameters():
        assert value.grad is None
        assert value.requires_grad
        assert torch.equal(value, before[name])


def test_an_attack_leaves_gathered_gradients_alone(windows, deep):
    """Under ``joint`` and with micro-batches an attack comes while gradients are being summed."""
    model = load_model(deep, torch.float32)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    LatentAdversary(layers=[0], steps=2).attack(model, windows, activations, torch.float32)
    assert all((parameter.grad == 0.5).all() for parameter in model.parameters())


def data_module(corpus_folder, checkpoint):
    return MuseDataModule(
        str(corpus_folder),
        tokenizer=checkpoint,
        max_len=24,
        batch_size=2,
        max_forget_windows=4,
        max_retain_windows=6,
    )


def fit(corpus_folder, checkpoint, adversary, forget=None, **options):
    """One epoch; the module and its weights."""
    forget = Misdirection(layer=1) if forget is None else forget
    retain = RepresentationRetention(layer=1)
    unlearning = UnlearningModule(
        checkpoint, forget, retain, adversary=adversary, **({"learning_rate": 1e-3} | options)
    )
    plain_trainer(max_epochs=1, precision="32-true").fit(
        unlearning, datamodule=data_module(corpus_folder, checkpoint)
    )
    return unlearning, dict(unlearning.model.named_parameters())


ADVERSARY = LatentAdversary(layers=[0], radius=2.0, steps=3)


def test_rmu_lat_steers_under_perturbation_and_rmu_without(corpus_folder, deep, windows):
    """Under the perturbation that each was or was not trained against, RMU_LAT lies nearer to its direction."""
    distance = {}
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(42))
    goal = 6.5 * drawn / drawn.norm()
    for name, adversary in {"RMU": None, "RMU_LAT": ADVERSARY}.items():
        unlearning, weights = fit(corpus_folder, deep, adversary, learning_rate=3e-3)
        model = unlearning.model.eval()
        shifts = ADVERSARY.attack(model, windows, activations, torch.float32)
        with torch.no_grad():
            states = activations(model, windows.input_ids, (1,), shifts).layers[1]
        distance[name] = (states - goal).square().mean().item(), weights
    assert distance["RMU_LAT"][0] < distance["RMU"][0]
    down = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(distance["RMU_LAT"][1][down], distance["RMU"][1][down])


def test_a_step_of_rmu_lat_equals_the_same_step_written_out(corpus_folder, deep):
    """``joint``: one optimizer step on the steered forget batch under attack and on the retain batch without."""
    data = data_module(corpus_folder, deep)
    data.schedule, data.batch_size = "joint", 4
    unlearning = UnlearningModule(
        deep,
        Misdirection(layer=1, coefficient=2.0),
        RepresentationRetention(layer=1),
        adversary=ADVERSARY,
        schedule="joint",
        alpha=3.0,
        learning_rate=1e-3,
        clip_norm=None,
    )
    plain_trainer(max_epochs=1, precision="32-true").fit(unlearning, datamodule=data)
    (batch,) = data.train_dataloader()
    model, target = (load_model(deep, torch.float32) for _ in range(2))
    shift = torch.zeros(4, 24, 64)
    for _ in range(3):  # projected descent on the mean NLL, 0.25 of the radius a step
        shift.requires_grad_()
        handle = model.model.layers[0].register_forward_hook(lambda _, __, output, shift=shift: output + shift)
        (gradient,) = torch.autograd.grad(
            model(input_ids=batch.forget.input_ids, labels=batch.forget.input_ids).loss, shift
        )
        handle.remove()
        shift = shift.detach() - 0.5 * gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        shift = shift * (2.0 / shift.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)

    def states(model, ids, shift=None):
        embedded = model.model.embed_tokens(ids)
        rotary = model.model.rotary_emb(embedded, torch.arange(24)[None])
        mask = torch.full((24, 24), float("-inf")).triu(1)[None, None]
        for number in (0, 1):
            embedded = model.model.layers[number](embedded, attention_mask=mask, position_embeddings=rotary)
            if number == 0 and shift is not None:
                embedded = embedded + shift
        return embedded

    drawn = torch.rand(64, generator=torch.Generator().manual_seed(42))
    steered = (states(model, batch.forget.input_ids, shift) - 2.0 * drawn / drawn.norm()).square().mean()
    with torch.no_grad():
        kept = states(target, batch.retain.input_ids)
    retained = (states(model, batch.retain.input_ids) - kept).square().mean()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    (steered + 3.0 * retained).backward()
    optimizer.step()
    expected = dict(model.named_parameters())
    for name, start in target.named_parameters():
        learned = (expected[name] - start).norm()
        assert (unlearning.model.get_parameter(name) - expected[name]).norm() <= 0.02 * learned, name


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"micro_batch_size": 1}])
def test_checkpointing_and_micro_batches_change_nothing(options, corpus_folder, deep):
    """The perturbation of a recomputed layer is that of its first pass."""
    _, plain = fit(corpus_folder, deep, ADVERSARY)
    _, other = fit(corpus_folder, deep, ADVERSARY, **options)
    start = dict(load_model(deep, torch.float32).named_parameters())
    for name, value in plain.items():
        assert (other[name] - value).norm() <= 0.02 * (value - start[name]).norm(), name


def test_a_term_on_the_logits_sees_the_perturbation_too(corpus_folder, deep):
    _, attacked = fit(corpus_folder, deep, ADVERSARY, GradientAscent())
    _, plain = fit(corpus_folder, deep, None, GradientAscent())
    assert not torch.equal(attacked["model.norm.weight"], plain["model.norm.weight"])


@pytest.mark.parametrize("layer", [3, -1])
def test_a_layer_that_does_not_exist_is_refused_before_the_weights_are_loaded(layer, corpus_folder, deep):
    with pytest.raises(InputError, match=rf"no such decoder layer; got {layer}\. Allowed: 0 … 2"):
        fit(corpus_folder, deep, LatentAdversary(layers=[layer]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius must be positive"),
        ({"step_size": float("inf")}, "step_size must be positive"),
        ({"steps": 0}, "at least 1 step"),
        ({"layers": ()}, "needs a layer"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LatentAdversary(**options)
