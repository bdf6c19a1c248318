"""Training of reference classifiers, and augmentation."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from preimage.augment import augment, cutmix, mixup
from preimage.classifier import Classifier
from preimage.config import Augmentation, Fitting, Runtime, TrainConfig
from preimage.data import ImageSet
from preimage.errors import PreimageError
from preimage.runtime import random_state, stream
from preimage.training import accuracy_on, channel_statistics, train
from preimage.types import ImageSpec, Prediction
from preimage.zoo.architectures import build
from tiny import Memory, ScaledFabrics, killer

CPU = Runtime(accelerator="cpu", precision="32-true")


def stripes(count: int, seed: int) -> ImageSet:
    """Class 0 has bright rows, class 1 bright columns."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    base = torch.zeros(8, 8)
    base[::2] = 160
    images = torch.stack([base if label == 0 else base.T for label in labels])[:, None]
    noise = torch.randint(0, 60, images.shape, generator=random)
    return ImageSet(
        "stripes", "train", (images + noise).to(torch.uint8), labels, ("rows", "columns")
    )


CONFIG = TrainConfig(
    arch="cnn", width=4, epochs=4, batch=16, lr=0.05, augmentation=Augmentation(shift=0)
)


def test_it_learns_and_the_classifier_carries_its_normalisation():
    data = stripes(160, 0)
    epochs = []
    classifier = train(data, CONFIG, runtime=CPU, on_epoch=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert accuracy_on(classifier, stripes(100, 1)) > 0.95
    assert classifier.class_names == ("rows", "columns") and classifier.arch == "cnn"
    mean = data.floats().mean()
    torch.testing.assert_close(classifier.mean.squeeze(), mean, atol=1e-5, rtol=0)


def test_a_loss_of_exactly_0_is_one_to_stop_at(monkeypatch):
    def nothing(logits, labels, label_smoothing):
        return logits.sum() * 0

    monkeypatch.setattr("preimage.training.F.cross_entropy", nothing)
    for stop, ended in ((0.0, 1), (None, CONFIG.epochs)):
        epochs = []
        config = replace(CONFIG, fitting=Fitting(stop_loss=stop))
        train(stripes(32, 0), config, runtime=CPU, on_epoch=epochs.append)
        assert len(epochs) == ended


def test_a_resumed_training_is_bit_identical():
    data = stripes(64, 0)
    unbroken = train(data, CONFIG, runtime=CPU)
    memory = Memory()

    with pytest.raises(KeyboardInterrupt):
        train(data, CONFIG, runtime=CPU, checkpoint=memory, on_epoch=killer(epoch=3))
    assert memory.state["step"] == 2
    torch.manual_seed(99)
    resumed = train(data, CONFIG, runtime=CPU, checkpoint=memory)
    states = zip(
        unbroken.network.state_dict().items(), resumed.network.state_dict().values(), strict=True
    )
    for (name, one), other in states:
        assert torch.equal(one, other), name


def test_a_resumed_training_scales_gradients_as_an_unbroken_one(monkeypatch):
    fabrics, memory, data = ScaledFabrics(), Memory(), stripes(64, 0)
    monkeypatch.setattr("preimage.training.make_fabric", fabrics)
    train(data, CONFIG)
    scale = fabrics.last()

    with pytest.raises(KeyboardInterrupt):
        train(data, CONFIG, checkpoint=memory, on_epoch=killer(epoch=3))
    before = copy.deepcopy(memory.state)
    train(data, CONFIG, checkpoint=memory)
    assert fabrics.last() == scale
    del before["scaler"]  # as in a state of an earlier version
    memory.state = before
    train(data, CONFIG, checkpoint=memory)
    assert memory.state["step"] == 4


def test_gradients_that_16_mixed_scales_are_not_clipped_for_privacy(monkeypatch):
    monkeypatch.setattr("preimage.training.precision_name", lambda _: "16-mixed")
    private = replace(CONFIG, fitting=Fitting(dp_noise=1.0))
    with pytest.raises(PreimageError, match="found 16-mixed"):
        train(stripes(16, 0), private)


def test_own_random_numbers_touch_no_device_but_those_asked_for(monkeypatch):
    def touched(*_):
        raise AssertionError("a device that nobody asked for")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_rng_state", touched)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    torch.default_generator.manual_seed(1)
    wanted = torch.rand(2)
    torch.default_generator.manual_seed(1)
    with random_state(5):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), wanted)
    assert torch.equal(inside, torch.rand(2, generator=torch.Generator().manual_seed(5)))


def test_only_one_device_is_trained_on():
    with pytest.raises(PreimageError, match="one device"):
        train(stripes(16, 0), CONFIG, runtime=Runtime(accelerator="cpu", devices=2))


def test_channel_statistics_agree_with_numpy():
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (9, 3, 5, 4), dtype=np.uint8)
    )
    mean, std = channel_statistics(images)
    values = images.numpy() / 255
    np.testing.assert_allclose(mean.flatten(), values.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std.flatten(), values.std(axis=(0, 2, 3)), atol=1e-6)
    constant = channel_statistics(torch.full((2, 1, 8, 8), 7, dtype=torch.uint8))[1]
    assert float(constant) > 0


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(flip=True, shift=3),
        Augmentation(rotate=20, scale=0.2, shift=2),
        Augmentation(contrast=0.5, shift=0),
    ],
)
def test_augmentation_keeps_shape_and_range_and_depends_on_the_stream_alone(settings):
    images = torch.rand(16, 3, 9, 12)
    before = images.clone()
    one, same, other = (augment(images, settings, stream("a", key)) for key in (0, 0, 1))
    assert one.shape == images.shape and one.min() >= 0 and one.max() <= 1 + 1e-5
    assert torch.equal(images, before)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(augment(images, Augmentation(shift=0), stream("a")), images)


def test_cutmix_pastes_one_rectangle_of_another_image_into_some():
    plain = torch.arange(1.0, 41)[:, None, None, None].expand(40, 2, 12, 16)
    mixed = cutmix(plain, 0.5, stream("c"))
    assert torch.equal(mixed[:20], plain[:20])
    assert torch.equal(cutmix(plain, 0.0, stream("c")), plain)
    sizes = set()
    for own, image in zip(plain[20:], mixed[20:], strict=True):
        foreign = image != own
        assert torch.equal(foreign[0], foreign[1])
        rows, columns = foreign[0].any(1).nonzero().flatten(), foreign[0].any(0).nonzero().flatten()
        if len(rows) == 0:  # its partner was itself
            continue
        assert 3 <= len(rows) <= 9 and 4 <= len(columns) <= 12
        inside = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert foreign[0].sum() == len(rows) * len(columns) and len(inside.unique()) == 1
        sizes.add((len(rows), len(columns)))
    assert len(sizes) > 5
    assert torch.equal(mixed, cutmix(plain, 0.5, stream("c")))


def test_mixup_averages_two_images():
    plain = torch.arange(10.0)[:, None, None, None].expand(10, 1, 4, 4)
    mixed = mixup(plain, stream("m"))
    assert (mixed == mixed[:, :1, :1, :1]).all() and mixed.min() >= 0 and mixed.max() <= 9
    values = mixed[:, 0, 0, 0]
    assert len(values.unique()) > 5 and not torch.equal(values, values.round())
    assert torch.equal(mixed, mixup(plain, stream("m")))


def test_shift_moves_by_whole_pixels_and_lets_zeros_in():
    images = torch.zeros(200, 2, 7, 7)
    images[:, :, 3, 3] = torch.tensor([0.25, 1.0])
    moved = augment(images, Augmentation(shift=2), stream("s"))
    assert torch.equal(moved.flatten(2).sum(2), images.flatten(2).sum(2))
    places = moved[:, 0].flatten(1).argmax(1)
    assert len(places.unique()) == 25
    rows, columns = places // 7, places % 7
    assert rows.min() == 1 and rows.max() == 5 and columns.min() == 1 and columns.max() == 5
    assert torch.equal(moved[:, 1].flatten(1).argmax(1), places)


def test_an_affine_change_of_nothing_changes_nothing():
    images = torch.rand(4, 1, 6, 10)
    still = augment(images, Augmentation(shift=0, rotate=1e-6), stream("a"))
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0)


def test_accuracy_is_asked_for_on_the_classifiers_device(monkeypatch):
    class Elsewhere(Classifier):
        """Lives on a device that has no memory, and knows every other answer."""

        def forward(self, images):
            assert images.device == self.mean.device
            return Prediction(
                torch.eye(2)[torch.arange(len(images)) % 2], torch.zeros(len(images), 1)
            )

    classifier = Elsewhere(build("mlp", ImageSpec(1, 8, 8), 2), ImageSpec(1, 8, 8))
    classifier.mean = classifier.mean.to("meta")
    monkeypatch.setattr("preimage.training.frozen", lambda _: nullcontext())
    assert accuracy_on(classifier, stripes(10, 0)) == 1.0


def test_attention_in_bf16_on_a_cpu_is_of_plain_products():
    """The fused kernel has no second derivative, and its first is slow there."""
    network = build("vit", ImageSpec(1, 8, 8), 3, 32)
    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        score = network(images).float().square().sum()
    (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    (twice,) = torch.autograd.grad(gradient.square().sum(), images)
    assert torch.isfinite(twice).all()
    assert twice.any()
