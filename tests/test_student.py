"""The student learns what the target says of its images, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from preimage.data import ImageSet
from preimage.errors import PreimageError
from preimage.student import StudentConfig, logit_distance, student_accuracy, student_architecture
from preimage.types import Condition, Prediction, Sample

K = 10
SMALL = StudentConfig(arch="mlp", width=64, images=400, steps=120, batch=40)
TINY = StudentConfig(arch="mlp", width=8, images=40, steps=2, batch=20)


def cells(labels, generator):
    """Class k lights up cell k of a grid of three by four on 12x16 pixels, in the dark."""
    rows, columns = labels // 4, labels % 4
    light = torch.zeros(len(labels), 1, 3, 4)
    light[torch.arange(len(labels)), 0, rows, columns] = 0.8
    images = F.interpolate(light, scale_factor=4)
    return images + torch.rand(images.shape, generator=generator) * 0.2


def brightest_cell(images):
    light = F.avg_pool2d(images.float(), 4).flatten(1)
    return Prediction(20 * light[:, :K], light)


def misnaming(images):
    """Calls class k + 1 what is class k."""
    logits, features = brightest_cell(images)
    return Prediction(logits.roll(1, dims=1), features)


def by_noise(images):
    """Answers from the last digits of the pixels, which say nothing of the cell."""
    features = brightest_cell(images).features
    answer = (images.double().sum((1, 2, 3)) * 255).round().long() % K
    return Prediction(10.0 * F.one_hot(answer, K), features)


def draw(labels, seed):
    images = cells(labels, torch.Generator().manual_seed(seed))
    condition = Condition(labels, F.one_hot(labels, K).float(), None, None)
    return Sample(images, condition, brightest_cell(images))


def real_set():
    generator = torch.Generator().manual_seed(99)
    labels = torch.randint(0, K, (300,), generator=generator)
    images = cells(labels, generator).mul(255).round().to(torch.uint8)
    return ImageSet("cells", "test", images, labels, tuple("abcdefghij"))


def learn(classifier=brightest_cell, config=SMALL, **changes):
    settings = {"classes": K, "config": config, "seed": 0} | changes
    return student_accuracy(draw, classifier, real_set(), **settings)


def test_student_learns_a_separable_problem():
    assert learn() > 0.95


def test_student_learns_the_targets_answers_not_the_requested_labels():
    assert learn(misnaming) < 0.05


def test_student_learns_nothing_from_answers_that_are_not_about_the_content():
    assert learn(by_noise) < 0.4


def test_student_is_tested_against_the_real_labels():
    shuffled = real_set()
    order = torch.randperm(len(shuffled), generator=torch.Generator().manual_seed(1))
    shuffled = ImageSet("x", "test", shuffled.images, shuffled.labels[order], shuffled.class_names)
    found = student_accuracy(draw, brightest_cell, shuffled, classes=K, config=SMALL)
    assert found == pytest.approx(1 / K, abs=0.06)


@pytest.mark.parametrize("arch", ["cnn", "resnet"])
def test_convolutional_students_learn_to_tell_stripes(arch):
    def stripes(labels, seed):
        images = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed)) / 2
        images[:, :, ::2] += 0.5
        images = torch.where((labels == 1).view(-1, 1, 1, 1), images.mT, images)
        return Sample(images, Condition(labels, labels, None, None), direction(images))

    def direction(images):
        energy = [images.diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3)]
        return Prediction(50 * torch.stack(energy, 1), images.flatten(1))

    labels = torch.arange(400) // 200  # a batch of the test holds a single class
    images = stripes(labels, 1).images.mul(255).round().to(torch.uint8)
    real = ImageSet("stripes", "test", images, labels, ("lying", "standing"))
    config = StudentConfig(arch=arch, width=8, images=100, steps=40, batch=20, lr=5e-3)
    assert student_accuracy(stripes, direction, real, classes=2, config=config) > 0.95


def test_the_same_seed_gives_the_same_accuracy_whatever_the_global_stream():
    middling = StudentConfig(arch="mlp", width=16, images=100, steps=12, batch=20)
    first = learn(config=middling)
    torch.manual_seed(torch.randint(1000, ()).item() + 1)
    assert learn(config=middling) == first
    assert len({learn(config=middling, seed=seed) for seed in range(4)}) > 1


def test_the_callers_random_stream_and_grad_mode_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        learn(config=StudentConfig(arch="cnn", width=4, images=40, steps=2, batch=20))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)


def test_the_target_is_asked_about_what_the_student_sees():
    asked = []

    def remember(images):
        asked.append(images.clone())
        return brightest_cell(images)

    learn(remember, replace(TINY, mixup=False))
    assert len(asked) == TINY.steps
    levels = torch.cat(asked) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)  # rounded to bytes
    assert any((batch[:, :, 0] == 0).all(dim=(1, 2)).any() for batch in asked)  # and shifted


def test_logits_are_apart_by_what_answers_hang_on():
    wanted = torch.tensor([[2.0, 0.0, -2.0], [1.0, 1.0, 4.0]])
    assert logit_distance(wanted + torch.tensor([[7.0], [-3.0]]), wanted) == pytest.approx(0)
    lower = wanted - torch.tensor([0.0, 0.0, 3.0])  # less the mean: 1, 1, -2
    assert logit_distance(lower, wanted) == pytest.approx(2.0)


def test_student_sees_the_classes_in_equal_number_and_fresh_seeds():
    labels, seeds = [], []

    def remember(wanted, seed):
        labels.append(wanted)
        seeds.append(seed)
        return draw(wanted, seed)

    config = StudentConfig(arch="mlp", width=8, images=410, steps=1, batch=20)
    student_accuracy(remember, brightest_cell, real_set(), classes=K, config=config)
    assert torch.bincount(torch.cat(labels)).tolist() == [41] * K
    assert len(set(seeds)) == len(seeds) == 3


@pytest.mark.parametrize(
    ("arch", "target", "expected"),
    [("auto", "cnn", "resnet"), ("auto", "resnet", "cnn"), ("auto", None, "resnet")],
)
def test_auto_is_never_the_targets_architecture(arch, target, expected):
    target = SimpleNamespace(arch=target)
    assert student_architecture(StudentConfig(arch=arch), target) == expected


def test_the_targets_own_architecture_is_refused():
    def target(images):
        return brightest_cell(images)

    target.arch = "mlp"
    with pytest.raises(PreimageError, match="another architecture"):
        learn(target, TINY)


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_samples_that_are_not_finite_are_refused(spoilt):
    def broken(labels, seed):
        sample = draw(labels, seed)
        return sample._replace(images=torch.full_like(sample.images, spoilt))

    with pytest.raises(PreimageError, match="NaN or infinity in 40 of 40"):
        student_accuracy(broken, brightest_cell, real_set(), classes=K, config=TINY)


def test_an_unknown_architecture_is_refused_before_any_sample_is_drawn():
    def never(labels, seed):
        raise AssertionError("drawn")

    config = StudentConfig(arch="vgg")
    with pytest.raises(PreimageError, match=r"out of auto, cnn.*'vgg'"):
        student_accuracy(never, brightest_cell, real_set(), classes=K, config=config)


@pytest.mark.parametrize("name", ["images", "steps", "batch"])
def test_settings_too_small_are_refused(name):
    with pytest.raises(PreimageError, match=f"student's {name}"):
        learn(config=StudentConfig(**{name: 0}))
