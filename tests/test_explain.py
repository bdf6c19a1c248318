"""Boundaries, units, counterfeits and maps, on networks whose answers are known."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from preimage.classifier import Classifier
from preimage.config import PRESETS
from preimage.data import ImageSet
from preimage.errors import PreimageError
from preimage.explain.boundary import boundary_distances, boundary_images, paths
from preimage.explain.counterfeits import counterfeits, nearest_real
from preimage.explain.featuremap import feature_map
from preimage.explain.saliency import overlay, saliency
from preimage.explain.units import telling_units, unit_images
from preimage.inversion import Inversion
from preimage.loop import invert
from preimage.types import ImageSpec
from pretend import GPU, PretendedGPU


class Linear(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.head = nn.Linear(inputs, classes)
        with torch.no_grad():
            self.head.weight.mul_(12)

    def forward(self, images):
        return self.head(images.flatten(1))


def linear(channels=1, classes=3):
    torch.manual_seed(0)
    return Classifier(Linear(channels * 64, classes).eval(), ImageSpec(channels, 8, 8))


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def inverted(request):
    classifier = linear(request.param)
    small = replace(PRESETS["natural"].generator, width=4, latent=8)
    config = replace(
        PRESETS["natural"], generator=small, steps=150, members=2, batch=32, terms=("sureness=5",)
    )
    return classifier, invert(classifier, config)


def state(classifier):
    flags = [(p.requires_grad, p.grad is None) for p in classifier.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in classifier.modules()]
    return [t.clone() for t in classifier.state_dict().values()], flags, hooks, classifier.training


def unchanged(before, after):
    return all(map(torch.equal, before[0], after[0])) and before[1:] == after[1:]


def test_distance_of_a_linear_classifier_is_exact():
    classifier = linear()
    images = torch.rand(40, 1, 8, 8)
    weight, bias = classifier.network.head.weight, classifier.network.head.bias
    logits = images.flatten(1) @ weight.T + bias
    labels = logits.argmax(1)
    nearest, found = boundary_distances(classifier, images, labels, [0, 1, 2])
    ways = torch.full((40, 3), float("inf"))
    for a in labels.unique().tolist():
        for b in {0, 1, 2} - {a}:
            gap = (logits[:, a] - logits[:, b]) / (weight[a] - weight[b]).norm()
            assert found[a, b] == pytest.approx(gap[labels == a].median().item(), rel=1e-4)
            ways[labels == a, b] = gap[labels == a]
    assert torch.isnan(found.diagonal()).all()
    assert torch.allclose(nearest, ways.amin(1), rtol=1e-4)


def test_images_of_other_classes_do_not_count():
    classifier = linear()
    images = torch.rand(10, 1, 8, 8)
    wrong = (classifier(images).logits.argmax(1) + 1) % 3
    nearest, table = boundary_distances(classifier, images, wrong, [0, 1, 2])
    assert torch.isnan(nearest).all() and torch.isnan(table).all()


def test_boundary_images_lie_between_their_classes(inverted):
    classifier, inversion = inverted
    before = state(classifier)
    found = boundary_images(classifier, inversion, [(0, 1), (1, 2), (2, 0)], seed=1)
    assert found.images.shape == (3, *classifier.spec.shape)
    assert found.images.min() >= 0 and found.images.max() <= 1
    said = classifier(found.images).logits.softmax(1)
    expected = said.gather(1, torch.tensor(found.pairs))
    assert torch.allclose(found.probabilities, expected, atol=1e-4)
    gap = (found.probabilities[:, 0] - found.probabilities[:, 1]).abs()
    assert gap.max() < 0.05
    assert unchanged(before, state(classifier))
    assert not inversion.generator.training
    again = boundary_images(classifier, inversion, [(0, 1), (1, 2), (2, 0)], seed=1)
    assert torch.equal(found.images, again.images)


def test_a_generator_that_was_loaded_or_is_in_training_stays_as_it_was_measured(inverted, tmp_path):
    classifier, inversion = inverted
    here = boundary_images(classifier, inversion, [(0, 1)], steps=2)
    inversion.save(tmp_path / "generator.safetensors")
    loaded = Inversion.load(tmp_path / "generator.safetensors", classifier)
    assert not loaded.generator.training
    loaded.generator.train()
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    found = boundary_images(classifier, loaded, [(0, 1)], steps=2)
    ways = paths(classifier, found, 3)
    unit_images(classifier, loaded, [0], count=2, steps=2)
    assert torch.equal(found.images, here.images)
    assert torch.equal(ways.images, paths(classifier, here, 3).images)
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.state_dict().items())
    assert loaded.generator.training


def test_classifier_on_a_gpu_explains_a_generator_on_the_cpu(inverted):
    classifier, inversion = inverted
    here = boundary_images(classifier, inversion, [(0, 1)], steps=3)
    driven = unit_images(classifier, inversion, [0], count=2, steps=3)
    with PretendedGPU():
        there = copy.deepcopy(classifier).to(GPU)
        found = boundary_images(there, inversion, [(0, 1)], steps=3)
        assert torch.equal(found.images, here.images)
        ways = paths(there, found, 3)
        assert ways.images.device.type == "cpu" and there.mean.device == GPU
        (again,) = unit_images(there, inversion, [0], count=2, steps=3)
        assert torch.equal(again.images, driven[0].images)


def test_path_leads_from_class_to_class(inverted):
    classifier, inversion = inverted
    found = boundary_images(classifier, inversion, [(0, 2)], steps=20)
    ways = paths(classifier, found, 7)
    assert ways.images.shape == (1, 7, *classifier.spec.shape)
    first, last = ways.probabilities[0, 0], ways.probabilities[0, -1]
    assert first[0] > first[1] and last[1] > last[0]
    assert torch.allclose(ways.images[0, 3], found.images[0], atol=1e-5)


def test_units_are_driven_beyond_where_they_began(inverted):
    classifier, inversion = inverted
    before = state(classifier)
    sample = inversion.sample(torch.arange(60) % 3)
    units = telling_units(sample.prediction.features, sample.condition.label, 3)
    found = unit_images(classifier, inversion, units, count=2, steps=15)
    assert [one.unit for one in found] == units
    for one in found:
        assert one.values[0] >= one.values[-1]
        assert one.values[0] > one.usual[0]
        features = classifier(one.images).features[:, one.unit]
        assert torch.allclose(features, one.values, atol=1e-4)
    assert unchanged(before, state(classifier))


def test_telling_units_tell_the_classes_apart():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 6)
    for unit in range(3):
        features[:, unit] += 20.0 * (labels == unit)
    features[:, 5] = 1.0  # never changes
    assert sorted(telling_units(features, labels, 3)) == [0, 1, 2]
    assert 5 not in telling_units(features, labels, 6)


def test_counterfeits_are_sure_and_doubted():
    sure, flat = torch.tensor([9.0, 0, 0]), torch.tensor([0.1, 0, 0])
    other, nan = torch.tensor([0.0, 9, 0]), torch.full((3,), float("nan"))
    target = torch.stack([sure, sure, sure, flat, nan, other])
    evaluator = torch.stack([sure, other, flat, other, sure, other])
    found = counterfeits(target, evaluator, torch.zeros(6, dtype=torch.int64))
    assert found.rows.tolist() == [1, 2]  # the less the evaluator believes it, the sooner
    assert (found.samples, found.confident, found.left_out) == (5, 3, 1)
    assert found.share == pytest.approx(2 / 3)


def test_no_confident_inversion_has_no_share():
    flat = torch.zeros(4, 3)
    assert counterfeits(flat, flat, torch.zeros(4, dtype=torch.int64)).share is None


def test_nearest_real_image_is_of_the_class():
    torch.manual_seed(0)
    images = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(30) % 2
    real = ImageSet("x", "test", images, labels, ("a", "b", "c"))
    wanted = torch.tensor([4, 7, 11])
    asked = (images[wanted].float() / 255 + 0.01).clamp(0, 1)
    assert nearest_real(asked, labels[wanted], real).tolist() == wanted.tolist()
    flipped = nearest_real(asked, 1 - labels[wanted], real)
    assert (labels[flipped] == 1 - labels[wanted]).all()
    assert nearest_real(asked[:1], torch.tensor([2]), real).tolist() == [-1]


def test_map_keeps_neighbours_together_and_leaves_nan_out():
    torch.manual_seed(0)
    groups = torch.arange(60) % 2
    features = torch.randn(60, 8) + 30.0 * groups[:, None]
    features[3] = float("nan")
    found = feature_map(features, seed=1)
    assert 3 not in found.rows and len(found.points) == 59
    near = torch.cdist(found.points, found.points).fill_diagonal_(float("inf")).argmin(1)
    own = groups[found.rows]
    assert (own[near] == own).double().mean() > 0.95
    assert torch.equal(feature_map(features, seed=1).points, found.points)


def test_map_of_few_points_or_of_none():
    assert feature_map(torch.randn(3, 4)).method == "PCA"
    assert feature_map(torch.randn(2, 1)).points.shape == (2, 2)
    with pytest.raises(PreimageError, match="finite"):
        feature_map(torch.full((4, 2), float("nan")))


def test_saliency_of_a_linear_classifier_is_weight_times_pixel():
    classifier = linear()
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    before = state(classifier)
    found = saliency(classifier, images, labels)
    exact = images[:, 0] * classifier.network.head.weight[labels].view(4, 8, 8)
    exact = exact / exact.flatten(1).abs().amax(1)[:, None, None]
    assert torch.allclose(found, exact.detach(), atol=1e-4)
    assert unchanged(before, state(classifier))
    shown = overlay(images, found)
    assert shown.shape == (4, 3, 8, 8) and shown.min() >= 0 and shown.max() <= 1


def test_saliency_without_captum_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(PreimageError, match="pip install captum"):
        saliency(linear(), torch.rand(1, 1, 8, 8), torch.tensor([0]))
