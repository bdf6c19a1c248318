"""Taking images out of weights that have decayed: no constant tells how bright they are."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from preimage.classifier import Classifier, frozen
from preimage.leak import directions as directions_module
from preimage.leak.contrast import KnownContrast, UnknownContrast
from preimage.leak.directions import directions
from preimage.leak.first_layer import FirstLayer, first_layer
from preimage.leak.matching import _centred
from preimage.leak.unmixing import _mixture, unmix
from preimage.runtime import stream
from test_unmixing import COUNT, SPEC, pictures

CPU = torch.device("cpu")
LABELS = torch.arange(COUNT) % 3
UNITS = 300


@functools.cache
def decayed(of_bias=0.0):
    """A classifier of pictures, from usual first weights, which weight decay has worn away."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(196, UNITS), nn.ReLU(), nn.Linear(UNITS, 3))
    target = Classifier(network, SPEC, mean=[0.3], std=[0.4])
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": kernels, "weight_decay": 0.05},
        {"params": others, "weight_decay": of_bias},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(600):
        optimizer.zero_grad()
        F.cross_entropy(target(pictures()).logits, LABELS).backward()
        optimizer.step()
    network.eval()
    return target


def cosines(images, others):
    """Of each image's pixels, less their mean, with the most alike of the others; (N,)."""
    return (_centred(images) @ _centred(others).T).amax(1)


def test_what_weight_decay_has_left_comes_apart():
    steps = []
    with frozen(decayed()):
        layer = first_layer(decayed())
        found = unmix(layer, SPEC, steps=500, on_step=lambda *at: steps.append(at))
    assert len(found.images) == COUNT == found.possible
    assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1
    assert int((cosines(pictures(), found.images) > 0.9).sum()) == COUNT
    assert int((cosines(pictures(key="others"), found.images) > 0.9).sum()) == 0
    assert all(before <= after for (before, _), (after, _) in itertools.pairwise(steps))
    assert steps[-1][0] == steps[-1][1]


def test_without_gradients_the_constant_has_to_do():
    with frozen(decayed()):
        layer = first_layer(decayed())
        assert isinstance(_mixture(layer, SPEC, CPU), UnknownContrast)
        assert isinstance(_mixture(layer._replace(gradients=None), SPEC, CPU), KnownContrast)


def test_an_image_is_told_from_its_negative_and_brought_to_full_contrast():
    with frozen(decayed()):
        layer = first_layer(decayed())
        mixture = _mixture(layer, SPEC, CPU)
        true = (pictures().flatten(1) - 0.3) @ mixture.vectors.T
        for factor in (1.0, -1.0, 0.1, -3.0):
            settled = mixture.settled(factor * true)
            assert int((F.cosine_similarity(settled, true, dim=1) > 0.99).sum()) >= 11
            pixels = mixture.pixels(settled)
            beyond = ((pixels < -1e-5) | (pixels > 1 + 1e-5)).float().mean(1)
            assert float(beyond.max()) <= 0.015
            assert (
                float((pixels.amin(1).clamp_min(0) * (1 - pixels.amax(1)).clamp_min(0)).max())
                < 1e-4
            )


@pytest.mark.parametrize(
    ("grey", "image", "full"), [(0.3, 0, 0.7 / 0.9), (0.0, 0, 1 / 0.9), (1.0, 1, 1 / 0.9)]
)
def test_full_contrast_is_not_decided_by_noise_beyond_black_or_white(grey, image, full):
    ones = torch.ones(196).double()
    layer = FirstLayer(torch.zeros(2, 197).double(), ones, -grey * ones, lambda images: images)
    images = torch.zeros(2, 196)
    images[:, :98] = torch.tensor([[0.9], [-0.9]])  # brighter than grey, or darker
    images[:, 98:] = torch.tensor([[-1e-3], [1e-3]])
    images[:, ::2] *= torch.linspace(0.5, 1, 98)
    mixture = UnknownContrast(layer, torch.eye(196)[:20].double(), SPEC, CPU)
    mixture.vectors = torch.eye(196)
    assert float(mixture._fullest(images)[image]) == pytest.approx(full, abs=0.02)


def test_images_are_possible_and_mixtures_of_them_are_not():
    with frozen(decayed()):
        mixture = _mixture(first_layer(decayed()), SPEC, CPU)
        place = mixture.settled((pictures().flatten(1) - 0.3) @ mixture.vectors.T)
        turn = torch.linalg.qr(torch.randn(COUNT, COUNT, generator=stream("turn")))[0]
        none = torch.zeros(COUNT)
        assert int(mixture.possible(place, none).sum()) >= 11
        assert int(mixture.possible(mixture.settled(turn @ place), none).sum()) <= 7


def test_where_the_bias_decays_as_well_the_constant_belongs_to_the_images():
    target = decayed(of_bias=0.05)
    with frozen(target):
        assert isinstance(_mixture(first_layer(target), SPEC, CPU), KnownContrast)


def test_without_weight_decay_the_constant_belongs_to_the_images():
    random = stream("coefficients")
    rows = torch.cat([pictures().flatten(1), torch.ones(COUNT, 1)], dim=1)
    weights = torch.randn(UNITS, COUNT, generator=random) @ rows
    weights += 1e-4 * torch.randn(weights.shape, generator=random)
    ones = torch.ones(196).double()
    layer = FirstLayer(weights.double(), ones, 0 * ones, lambda images: images.flatten(1))
    assert isinstance(_mixture(layer, SPEC, CPU), KnownContrast)


@pytest.mark.parametrize("clear", [True, False])
def test_a_step_tells_where_rounding_is_no_even_noise(monkeypatch, clear):
    if not clear:
        for step in ("_CLEAR_STEP", "_EVEN_STEP"):
            monkeypatch.setattr(directions_module, step, float("inf"))
    random = stream("rounding")
    written = torch.randn(UNITS, COUNT, generator=random) @ pictures().flatten(1)
    left = torch.linalg.qr(torch.randn(UNITS, UNITS, generator=random).double())[0]
    right = torch.linalg.qr(torch.randn(196, 196, generator=random).double())[0]
    sizes = torch.logspace(-5, -9, 196).double().clamp_min(1e-7)  # uneven, and then even
    rounding = left[:, :196] * sizes @ right
    count = len(directions(written.double() + rounding))
    assert count == COUNT if clear else count > COUNT


def test_gradients_are_those_of_the_largest_probability():
    target = decayed()
    images = torch.rand(5, *SPEC.shape, generator=stream("images"))
    with frozen(target):
        given = first_layer(target).gradients(images)
    assert given.shape == (5, UNITS) and given.dtype == torch.float64
    assert not target.network[1]._forward_hooks
    bias = target.network[1].bias
    for image, gradient in zip(images, given, strict=True):
        likelihood = target(image[None]).logits.log_softmax(1).amax()
        (expected,) = torch.autograd.grad(likelihood, bias)  # a sum moves as its bias does
        assert torch.allclose(gradient.float(), expected, atol=1e-6)
