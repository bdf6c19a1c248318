"""The inversion loop on a classifier that is small enough to train here."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from preimage.classifier import Classifier
from preimage.config import GeneratorConfig, InvertConfig, Runtime
from preimage.diagnostics import Check, diagnose
from preimage.errors import DivergedError, PreimageError
from preimage.inversion import Inversion, predict
from preimage.loop import invert, member_starts, step_labels
from preimage.losses import Objective, WeightedTerm
from preimage.processes import is_follower
from preimage.runtime import stream
from preimage.terms.paper import cross_entropy
from preimage.types import ImageSpec
from tiny import Memory, ScaledFabrics, fit, killer

SPEC = ImageSpec(1, 8, 8)
CPU = Runtime(accelerator="cpu", precision="32-true")
SMALL = GeneratorConfig(latent=8, width=8, dropout=0.2)


@pytest.fixture(scope="module")
def classifier():
    """Tells which quarter of the image is brightest."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))

    def batch(_):
        images = torch.rand(128, 1, 8, 8)
        return images, nn.functional.avg_pool2d(images, 4).flatten(1).argmax(1)

    return Classifier(fit(network, batch, 150), SPEC)


def settings(**changes) -> InvertConfig:
    values = {"steps": 60, "batch": 32, "check_every": 10, "generator": SMALL, "lr": 5e-3}
    return InvertConfig(**{**values, **changes})


def weights(inversion: Inversion) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in inversion.state_dict().values()])


def test_samples_get_the_class_they_were_asked_for(classifier):
    inversion = invert(classifier, settings(steps=150), runtime=CPU)
    sample = inversion.sample(torch.arange(400) % 4, seed=1)
    accuracy = (sample.prediction.logits.argmax(1) == sample.condition.label).float().mean()
    assert accuracy > 0.95
    assert (sample.condition.label[:4] == torch.arange(4)).all()
    again = inversion.sample(torch.arange(400) % 4, seed=1)
    assert torch.equal(sample.images, again.images)


def test_equal_seeds_agree_and_others_do_not_and_the_global_stream_is_left_alone(classifier):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (
        weights(invert(classifier, settings(steps=8, seed=seed), runtime=CPU)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("members", "killed_at"), [(1, 17), (3, 17), (3, 27)])
def test_a_resumed_run_is_bit_identical(classifier, precision, members, killed_at):
    runtime = Runtime(accelerator="cpu", precision=precision)
    config = settings(steps=30, members=members)
    unbroken = invert(classifier, config, runtime=runtime)
    memory = Memory()

    with pytest.raises(KeyboardInterrupt):
        invert(
            classifier,
            config,
            runtime=runtime,
            checkpoint=memory,
            on_step=killer(step=killed_at),
        )
    saved_at = killed_at // 10 * 10
    assert memory.state["step"] == saved_at
    steps = []
    resumed = invert(
        classifier,
        config,
        runtime=runtime,
        checkpoint=memory,
        on_step=lambda progress: steps.append(progress.step),
    )
    assert steps[0] == saved_at + 1
    assert torch.equal(weights(resumed), weights(unbroken))
    assert resumed.checks == unbroken.checks


def test_a_resumed_run_scales_gradients_as_an_unbroken_one(classifier, monkeypatch):
    fabrics, memory = ScaledFabrics(), Memory()
    monkeypatch.setattr("preimage.loop.make_fabric", fabrics)
    unbroken = invert(classifier, settings(steps=23))
    scale = fabrics.last()
    assert scale["scale"] > 4.0

    with pytest.raises(KeyboardInterrupt):
        invert(classifier, settings(steps=23), checkpoint=memory, on_step=killer(step=15))
    before = copy.deepcopy(memory.state)
    resumed = invert(classifier, settings(steps=23), checkpoint=memory)
    assert fabrics.last() == scale
    assert torch.equal(weights(resumed), weights(unbroken))
    del before["scaler"]  # as in a state of an earlier version
    memory.state = before
    invert(classifier, settings(steps=23), checkpoint=memory)
    assert memory.state["step"] == 23


def test_every_member_draws_its_share_and_draws_something_else(classifier):
    inversion = invert(classifier, settings(steps=60, members=3), runtime=CPU)
    assert len(inversion.bank) == 2
    noise, condition = inversion.draw(torch.arange(300) % 4, stream("x"))
    mixed = inversion._render(noise, condition)
    drawn = []
    for member in (*inversion.bank, inversion.generator):
        with torch.no_grad():
            drawn.append((member.eval()(noise, condition) - mixed).abs().amax((1, 2, 3)) < 1e-6)
    assert torch.stack(drawn).sum(0).eq(1).all()
    assert all(80 <= int(mine.sum()) <= 120 for mine in drawn)


def test_a_fresh_first_layer_is_all_that_a_new_member_changes(classifier):
    begun = Inversion(SPEC, tuple("abcd"), settings())
    before = begun.generator.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    fresh = begun.generator.restart(stream("x"))
    assert [id(parameter) for parameter in fresh] == [id(begun.generator.linear.weight)]
    after = begun.generator.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        "linear.weight"
    ]
    scale = after["linear.weight"].std() / before["linear.weight"].std()
    assert float(scale) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("steps", "members", "starts"), [(800, 1, [0]), (400, 3, [0, 200, 300]), (7, 3, [0, 4, 5])]
)
def test_the_first_member_has_twice_the_time_of_the_others(steps, members, starts):
    assert member_starts(steps, members) == starts


def test_it_stops_early_once_the_held_out_check_is_good_enough(classifier):
    inversion = invert(classifier, settings(steps=400, stop_at=0.5, patience=2), runtime=CPU)
    assert len(inversion.checks) < 40
    assert all(check.accuracy >= 0.5 for check in inversion.checks[-2:])


def test_it_does_not_stop_before_the_last_member_is_good(classifier):
    config = settings(steps=40, members=3, check_every=5, stop_at=0.0, patience=2)
    inversion = invert(classifier, config, runtime=CPU)
    last = member_starts(40, 3)[-1]
    assert len(inversion.bank) == 2
    assert sum(check.step > last for check in inversion.checks) == 2


def test_a_scheduler_that_numbers_processes_makes_no_helper_of_this_one(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert not is_follower(Runtime())
    assert is_follower(Runtime(devices=2))
    monkeypatch.setenv("RANK", "one")
    assert not is_follower(Runtime(devices=2))


def test_of_processes_that_slurm_starts_the_first_alone_writes(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not is_follower(Runtime(devices=2))  # left from elsewhere: nothing here is under SLURM
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "invert")
    assert is_follower(Runtime(devices=2)) and not is_follower(Runtime())
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert not is_follower(Runtime(devices=2))


def test_a_nan_half_way_leaves_the_last_good_state(classifier):
    calls = 0

    def poisoned(sample):
        nonlocal calls
        calls += 1
        return cross_entropy(sample) * (float("nan") if calls > 25 else 1.0)

    memory = Memory()
    objective = Objective([WeightedTerm("poisoned", poisoned, 1.0)])
    with pytest.raises(DivergedError, match="nan at step"):
        invert(classifier, settings(), objective=objective, runtime=CPU, checkpoint=memory)
    assert memory.state["step"] in (10, 20)
    assert all(torch.isfinite(tensor).all() for tensor in memory.state["inversion"].values())


def test_a_nan_gradient_under_a_finite_loss_is_not_saved(classifier):
    def finite_but_steep(sample):
        # sqrt has an infinite slope at 0, times 0 is NaN
        return cross_entropy(sample) + ((sample.images * 0).sum()).sqrt()

    memory = Memory()
    objective = Objective([WeightedTerm("steep", finite_but_steep, 1.0)])
    with pytest.raises(DivergedError):
        invert(
            classifier,
            settings(check_every=1),
            objective=objective,
            runtime=CPU,
            checkpoint=memory,
        )
    assert memory.state is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 1}, "batch of at least 2"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 3, "members": 3}, "fewer than the 3 steps"),
        ({"generator": GeneratorConfig(dropout=1.0)}, "dropout"),
        ({"conditioning": "colour"}, "conditioning scheme out of label"),
    ],
)
def test_wrong_settings_are_told(classifier, changes, sentence):
    with pytest.raises(PreimageError, match=sentence):
        invert(classifier, settings(**changes), runtime=CPU)


def test_a_classifier_without_batch_norm_can_be_inverted_and_it_is_said(classifier):
    config = settings(steps=100, terms=("batch-norm=1", "separation=1"), alpha=0.0)
    with pytest.warns(UserWarning, match="shows no batch norm"):
        inversion = invert(classifier, config, runtime=CPU)
    assert inversion.checks[-1].accuracy > 0.9
    assert inversion.checks[-1].shares["batch-norm"] == 0 < inversion.checks[-1].shares["ce"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alpha": 0.0, "beta": 0.0}, True),
        ({"alpha": 0.0, "beta": 0.0, "terms": ("separation=1",)}, True),
        ({"alpha": 0.0, "beta": 0.0, "terms": ("sureness=1",)}, False),
        ({"alpha": 0.0, "beta": 0.0, "terms": ("ce=1",)}, False),
        ({"alpha": 0.0, "beta": 0.0, "terms": ("separation=1", "sureness=0")}, True),
        ({"alpha": 0.0}, False),
    ],
)
def test_settings_that_ask_for_no_class_are_told_of(classifier, changes, said):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        invert(classifier, settings(steps=1, **changes), runtime=CPU)
    assert (
        any("no term asks for images of the wanted class" in str(w.message) for w in found) is said
    )


def test_wrong_use_is_told(classifier, tmp_path):
    with pytest.raises(PreimageError, match="image shape"):
        invert(classifier.network, settings())
    with pytest.raises(PreimageError, match=r"CUDA|accelerator"):
        invert(classifier, settings(), runtime=Runtime(accelerator="cuda", devices=99))
    inversion = invert(classifier, settings(steps=1), runtime=CPU)
    for labels in ([4], [-1]):
        with pytest.raises(PreimageError, match="from 0 to 3"):
            inversion.images(labels)
    inversion.save(tmp_path / "g.safetensors")
    with pytest.raises(PreimageError, match="without one"):
        Inversion.load(tmp_path / "g.safetensors").sample([0])
    (tmp_path / "g.safetensors").write_bytes(b"torn")
    with pytest.raises(PreimageError, match="generator file"):
        Inversion.load(tmp_path / "g.safetensors")


GOOD = Check(100, 0.99, 0.9, 8.0, 32.0, 0.3, 1e-4, {"kl": 0.6, "ce": 0.4})


def symptoms(**changes) -> list[str]:
    return [found.symptom for found in diagnose([Check(**{**vars(GOOD), **changes})])]


def test_diagnosis_names_each_sign_and_nothing_for_a_healthy_run():
    assert diagnose([]) == []
    assert symptoms() == []
    assert symptoms(accuracy=0.4) == ["poor accuracy"]
    assert symptoms(diversity=1.1) == ["mode collapse"]
    assert symptoms(accuracy=0.4, gradient=1e-12) == ["poor accuracy", "vanishing gradients"]
    assert symptoms(accuracy=0.4, shares={"kl": 0.99, "ce": 0.01}) == [
        "poor accuracy",
        "dominant term",
    ]
    assert symptoms(shares={"kl": 0.99, "ce": 0.01}) == []
    assert symptoms(gradient=1e-12) == []


def test_a_label_conditioned_generator_without_dropout_is_found_to_collapse(classifier):
    config = settings(
        steps=120,
        conditioning="label",
        alpha=0.0,
        gamma=0.0,
        delta=0.0,
        generator=GeneratorConfig(latent=1, width=8, dropout=0.0),
    )
    inversion = invert(classifier, config, runtime=CPU)
    assert "mode collapse" in [found.symptom for found in diagnose(inversion.checks)]


@pytest.mark.parametrize(("classes", "batch"), [(10, 32), (16, 32), (20, 32), (40, 32), (5, 3)])
def test_every_class_gets_its_share_of_images_and_of_pairs(classes, batch):
    images, pairs = torch.zeros(classes), torch.zeros(classes)
    for step in range(400):
        labels = step_labels(classes, batch, stream("labels", step))
        count = labels.bincount(minlength=classes)
        assert len(labels) == batch and (count > 1).any()
        images += count
        pairs += count * (count - 1) / 2
    assert images.min() > 0.6 * images.max()
    assert pairs.min() >= 0.5 * pairs.max()


def test_shares_are_measured_of_the_loss_as_it_is_trained(classifier):
    """In half precision the distances of images that are alike would lose their digits."""
    within = []

    def term(sample):
        within.append(torch.is_autocast_enabled("cpu"))
        return cross_entropy(sample)

    half = Runtime(accelerator="cpu", precision="bf16-mixed")
    objective = Objective([WeightedTerm("ce", term, 1.0)])
    invert(classifier, settings(steps=2), objective=objective, runtime=half)
    assert within == [False] * 3  # two steps and a check


def test_it_takes_gradients_whatever_its_caller_does(classifier):
    with torch.no_grad():
        inversion = invert(classifier, settings(steps=2), runtime=CPU)
    assert inversion.checks[-1].gradient > 0
    with torch.inference_mode(), pytest.raises(PreimageError, match=r"found torch\.inference_mode"):
        invert(classifier, settings(steps=2), runtime=CPU)


@pytest.mark.parametrize("labels", [1, [0.5, 1.0], [[0, 1]], ["0"], None, torch.tensor(2), [True]])
def test_labels_that_are_no_row_of_classes_are_told(classifier, labels):
    inversion = Inversion(SPEC, tuple("0123"), settings(), classifier=classifier)
    for ask in (inversion.images, inversion.sample):
        with pytest.raises(PreimageError, match="expected labels as a row of whole class indices"):
            ask(labels)
    assert inversion.images(torch.tensor([3, 0], dtype=torch.uint8)).shape == (2, *SPEC.shape)
    assert len(inversion.images([])) == 0


def test_answers_keep_no_graph(classifier):
    images = torch.rand(3, *SPEC.shape, requires_grad=True)
    assert not any(part.requires_grad for part in predict(classifier, images))
