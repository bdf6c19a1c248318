"""Networks as strangers write them: odd layers, odd numbers, odd ways to be called."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

import preimage
import tiny
from preimage.classifier import Classifier, frozen
from preimage.config import GeneratorConfig, HardenConfig, InvertConfig, Runtime, TrainConfig
from preimage.errors import PreimageError
from preimage.loop import batch_room, held_out_labels, invert
from preimage.ood import Detector
from preimage.ood.hardening import harden
from preimage.ood.heads import with_garbage
from preimage.tensors import pack, unpack
from preimage.terms.repulsion import composition, separation
from preimage.types import ImageSpec, Layer
from preimage.weights import load_checkpoint

SPEC = ImageSpec(1, 8, 8)
SHORT = InvertConfig(
    preset="paper", steps=2, batch=8, check_every=2, generator=GeneratorConfig(latent=4, width=4)
)
CPU = Runtime(accelerator="cpu", precision="32-true")


def wrapped(network, **options):
    return Classifier(network.eval(), SPEC, **options)


class Caching(nn.Module):
    """Makes a buffer when it first runs, and another one for every other size of batch."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.build()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images):
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(64))
        self.seen = torch.zeros(len(images))
        return self.inner(images.flatten(1) * self.mask)


def test_buffers_that_a_forward_pass_makes_are_no_error():
    network = Caching()
    network.train()
    classifier = Classifier(network, SPEC)
    with frozen(classifier):
        classifier(torch.rand(5, 1, 8, 8))
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert network.seen.shape == (1,)


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float64], ids=str)
def test_networks_in_other_numbers_are_inverted(number):
    classifier = wrapped(tiny.build().to(number))
    inversion = invert(classifier, SHORT, runtime=CPU)
    sample = inversion.sample([0, 1, 2])
    assert sample.prediction.logits.dtype == torch.float32
    assert next(classifier.network.parameters()).dtype == number


class WithoutGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny.build()

    @torch.no_grad()
    def forward(self, images):
        return self.inner(images)


def test_a_classifier_without_a_gradient_is_told_before_any_step():
    with pytest.raises(PreimageError, match="gradient at its input, found none"):
        invert(wrapped(WithoutGradient()), SHORT, runtime=CPU)


def test_a_wrapped_classifier_keeps_its_own_settings():
    with pytest.raises(PreimageError, match="no mean beside a Classifier"):
        invert(wrapped(tiny.build()), SHORT, mean=(0.5,))


@pytest.mark.parametrize(("term", "layers"), [(separation, 1), (composition, 1)])
def test_layers_that_fold_tokens_into_the_batch_are_divided_among_the_images(term, layers):
    sample = tiny.draw_sample()
    tokens = torch.randn(12, 6, 5, generator=torch.Generator().manual_seed(2))
    ones = torch.zeros(5), torch.ones(5)
    folded = sample._replace(layers=(Layer(tokens.flatten(0, 1), *ones),) * layers)
    apart = sample._replace(layers=(Layer(tokens.movedim(2, 1), *ones),) * layers)
    assert torch.allclose(term(folded), term(apart))
    odd = sample._replace(layers=(Layer(torch.randn(7, 5), *ones),))
    assert torch.allclose(term(odd), term(sample._replace(layers=())))


@pytest.mark.parametrize("side", [8, 64, 224, 1024])
@pytest.mark.parametrize("classes", [2, 10, 43, 62, 63, 250, 500, 1000])
def test_a_check_sees_as_many_classes_as_it_has_room_for_and_several_images_of_some(classes, side):
    labels = held_out_labels(classes, ImageSpec(1, side, side))
    counts = torch.bincount(labels, minlength=classes)
    room = 500 if side <= 64 else 96
    assert room / 2 <= len(labels) <= 1.5 * room and int(counts.max()) >= 8
    assert int((counts > 0).sum()) >= min(classes, room)
    assert counts[0] > 0 and counts[-1] > 0


class Halves(nn.Module):
    """One tensor under two names."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
        self.features = self.model[:3]

    def forward(self, images):
        return self.model(images)


def test_a_network_with_two_names_for_a_tensor_is_packed_and_loaded(tmp_path):
    network = Halves()
    packed = pack(network.state_dict(), {"format": "f"})
    (tmp_path / "a").write_bytes(packed)
    found = unpack(tmp_path / "a", "f", "file", "")[1]
    assert torch.equal(found["features.1.weight"], network.model[1].weight)
    save_model(network, str(tmp_path / "b.safetensors"))  # holds one name of each alone
    other = Halves()
    load_checkpoint(other, tmp_path / "b.safetensors")
    assert torch.equal(other.features[1].weight, network.features[1].weight)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_behind_a_prefix_fit_with_and_without(tmp_path, prefix):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = tiny.build()

    network = tiny.build() if prefix else Outer()
    state = {prefix + name: t + 1 for name, t in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        other = tiny.build() if prefix else Outer()
        load_checkpoint(other, tmp_path / name)
        got = other.state_dict()
        assert all(torch.equal(got[key.removeprefix(prefix)], t) for key, t in state.items())


def test_a_count_of_batches_may_be_missing(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    state = {n: t for n, t in network.state_dict().items() if "num_batches" not in n}
    save_file(state, tmp_path / "w.safetensors")
    load_checkpoint(network, tmp_path / "w.safetensors")
    del state["1.running_mean"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(PreimageError, match="1 missing"):
        load_checkpoint(network, tmp_path / "w.safetensors")


class NanOnFlat(nn.Module):
    """Standardises every image, which no flat one survives."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.build()

    def forward(self, images):
        flat = images.flatten(1)
        return self.inner((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True))


def test_an_image_without_an_answer_is_as_far_out_as_can_be():
    classifier = with_garbage(wrapped(NanOnFlat()), "extend")
    known = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    detector = Detector(classifier).fit(known)
    scores = detector(torch.cat([known[:2], torch.zeros(1, 1, 8, 8)]))
    assert math.isinf(scores[2]) and torch.isfinite(scores[:2]).all()
    assert detector.is_ood(scores)[2]
    with pytest.raises(PreimageError, match="NaN or infinity for 1 of 61"):
        Detector(classifier).fit(torch.cat([known, torch.zeros(1, 1, 8, 8)]))


class PerToken(nn.Module):
    """The last layer runs once for every row of the image."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        return self.head(images[:, 0]).mean(1)


class Doubled(nn.Linear):
    def forward(self, values):
        return 2 * super().forward(values)


@pytest.mark.parametrize(
    "network", [PerToken(), nn.Sequential(nn.Flatten(), Doubled(64, 3))], ids=["tokens", "subclass"]
)
def test_a_last_layer_that_is_not_a_plain_one_gets_no_further_row(network):
    with pytest.raises(PreimageError, match="--head beside"):
        with_garbage(wrapped(network), "extend")


class Scatters(nn.Module):
    """Fails where autocast makes a linear layer's output bfloat16."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.build()

    def forward(self, images):
        logits = self.inner(images)
        index = torch.zeros(len(images), dtype=torch.int64)
        return torch.zeros(len(images), logits.shape[1]).index_add_(0, index, logits) + logits


class OfTwo(nn.Module):
    """Takes two images and no other number."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.build()

    def forward(self, images):
        return self.inner(images.reshape(2, 1, 8, 8))


def test_a_network_that_mixed_precision_breaks_is_told_the_precision_that_it_runs_in():
    classifier, mixed = wrapped(Scatters()), Runtime(accelerator="cpu", precision="bf16-mixed")
    for act in (
        lambda: invert(classifier, SHORT, runtime=mixed),
        lambda: batch_room(classifier, SHORT, mixed),
    ):
        with pytest.raises(PreimageError, match=r"mixed precision, found: RuntimeError: .*32-true"):
            act()
    invert(classifier, SHORT, runtime=CPU)


def test_a_network_of_a_fixed_number_of_images_is_told_so():
    with pytest.raises(PreimageError, match="takes any number of images, found with 3: "):
        invert(wrapped(OfTwo()), SHORT, runtime=CPU)


def test_weights_without_values_are_told():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with torch.device("meta"):
        meta = tiny.build()
    for network in (lazy, meta):
        with pytest.raises(PreimageError, match=r"expected weights with values.*'1\.weight'"):
            wrapped(network)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("mnist", {}, "found 'mnist'; load one by its name with load_classifier"),
        (tiny.build(), {"image": (8, 8)}, r"\(channels, height, width\), found \(8, 8\)"),
        (tiny.build(), {"image": (1, 8, 8), "mean": 0.5}, r"give mean=\(0\.5,\)"),
    ],
)
def test_what_python_is_given_wrongly_is_told(model, options, said):
    with pytest.raises(PreimageError, match=said):
        invert(model, SHORT, **options)


def test_numbers_of_a_normalisation_come_in_any_row():
    for row in ([0.5], (0.5,), torch.tensor([0.5]), np.array([0.5])):
        assert wrapped(tiny.build(), mean=row).mean.item() == 0.5


def test_settings_in_python_are_checked_as_on_the_command_line(tmp_path):
    data = preimage.load(tiny.write_npz(tmp_path / "bands.npz"), "train")
    with pytest.raises(PreimageError, match="--epochs of at least 1, found 0"):
        preimage.train(data, TrainConfig(epochs=0))
    with pytest.raises(PreimageError, match="--batch of at least 2, found 1"):
        harden(data, training=TrainConfig(batch=1))
    with pytest.raises(PreimageError, match="--noise of at least 1, found 0"):
        harden(data, HardenConfig(noise=0))
