"""Values of the prior and of the repulsion, and what a classifier shows of its batch norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from preimage.classifier import Classifier
from preimage.diversity import vendi as vendi_score
from preimage.runtime import stream
from preimage.terms import paper, prior, repulsion, sureness
from preimage.types import ImageSpec, Layer
from preimage.zoo.architectures import build
from tiny import draw_sample, standard

SPEC = ImageSpec(1, 12, 12)


def of_one_class(images, layers=()):
    sample = draw_sample(len(images))
    condition = sample.condition._replace(label=torch.zeros(len(images), dtype=torch.int64))
    return sample._replace(images=images, condition=condition, layers=layers)


# --- what a classifier shows -----------------------------------------------------------------


def test_layers_of_the_training_images_are_standard():
    """In evaluation mode, with statistics that are exactly the images'."""
    torch.manual_seed(0)
    network = build("cnn", SPEC, 4, 8)
    images = torch.rand(64, *SPEC.shape)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over batches: here, over one
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    network.train()(images)
    classifier = Classifier(network, SPEC).eval()
    with torch.no_grad():
        prediction, layers = classifier.observe(images)
        assert torch.equal(prediction.logits, classifier(images).logits)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert len(layers) == norms > 2
    for layer in layers:
        variance, mean = torch.var_mean(layer.values, (0, 2, 3))
        torch.testing.assert_close(mean, layer.mean, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(variance.sqrt(), layer.std, atol=1e-3, rtol=2e-2)
    sample = draw_sample(64)._replace(layers=layers)
    assert 0 <= float(prior.batch_norm(sample)) < 1e-3
    with torch.no_grad():
        other = classifier.observe(images * 0.2)[1]
    assert float(prior.batch_norm(sample._replace(layers=other))) > 0.1


def test_observing_leaves_no_hook_even_after_a_failure():
    classifier = Classifier(build("cnn", SPEC, 4, 8), SPEC).eval()
    with pytest.raises(RuntimeError):
        classifier.observe(torch.rand(2, 3, 12, 12))
    assert all(not module._forward_pre_hooks for module in classifier.modules())


@pytest.mark.parametrize("value", [0.0, 0.05, 0.1, 0.7, 1e4])
def test_a_channel_that_is_constant_far_from_its_deviation_is_wrong_but_finite(value):
    """Pruned filters leave such: rounding must not make their variance negative."""
    values = torch.full((16, 2, 5, 5), value, requires_grad=True)
    layer = Layer(values, torch.zeros(2), torch.full((2,), 3e-3))
    divergence = prior.batch_norm(draw_sample(16)._replace(layers=(layer,)))
    divergence.backward()
    assert 1 < float(divergence) < float("inf") and bool(torch.isfinite(values.grad).all())


def test_separation_has_room_in_half_precision():
    values = 3 + torch.randn(8, 64, 40, 40, generator=torch.Generator().manual_seed(0))
    layer = Layer(values, torch.zeros(64), torch.ones(64))
    whole, half = (
        repulsion.separation(of_one_class(values[:, :1], (part,)))
        for part in (layer, layer._replace(values=values.half()))
    )
    assert float(half) == pytest.approx(float(whole), abs=0.02)


@pytest.mark.parametrize("arch", ["mlp", "vit"])
def test_a_classifier_without_batch_norm_shows_no_layers(arch):
    classifier = Classifier(build(arch, SPEC, 4), SPEC).eval()
    assert classifier.observe(torch.rand(2, *SPEC.shape))[1] == ()


# --- the prior -------------------------------------------------------------------------------


def test_the_prior_is_the_divergence_of_two_normal_distributions():
    layer = torch.randn(4000, 3, generator=stream("l")).double() * 2 + 0.5
    sample = draw_sample()._replace(layers=(standard(layer),))
    mean, variance = layer.mean(0), layer.var(0, correction=0)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()),
        torch.distributions.Normal(torch.zeros(3).double(), torch.ones(3).double()),
    ).mean()
    assert float(prior.batch_norm(sample)) == pytest.approx(float(wanted), rel=1e-3)


def test_total_variation_of_stripes_and_of_a_flat_image():
    stripes = (torch.arange(8) % 2).float().expand(2, 1, 8, 8)
    assert float(prior.total_variation(of_one_class(stripes))) == 1.0
    assert float(prior.total_variation(of_one_class(torch.full((2, 1, 8, 8), 0.3)))) == 0.0


# --- repulsion -------------------------------------------------------------------------------


def test_separation_is_zero_for_unrelated_images_and_large_for_copies():
    images = torch.rand(6, 1, 8, 8, generator=stream("i"))
    assert float(repulsion.separation(of_one_class(images))) == pytest.approx(0, abs=0.05)
    copies = images[:1].expand(6, -1, -1, -1)
    wanted = math.log(repulsion.FIRST_DISTANCE / repulsion._LEAST)
    assert float(repulsion.separation(of_one_class(copies))) == pytest.approx(wanted, rel=1e-3)


def test_separation_leaves_images_of_different_classes_alone():
    images = torch.rand(2, 1, 8, 8, generator=stream("i")).repeat(2, 1, 1, 1)
    sample = of_one_class(images)
    apart = sample.condition._replace(label=torch.tensor([0, 1, 2, 3]))
    assert float(repulsion.separation(sample._replace(condition=apart))) == 0
    assert float(repulsion.separation(sample)) > 1


def test_separation_asks_less_of_deeper_layers():
    copies, apart = standard(torch.zeros(4, 2, 3, 3)), standard(torch.randn(4, 9) * 9)
    images = torch.rand(4, 1, 8, 8, generator=stream("i"))
    shallow = float(repulsion.separation(of_one_class(images, (copies, apart))))
    deep = float(repulsion.separation(of_one_class(images, (apart, copies))))
    assert shallow > deep > 0


def test_composition_sees_how_much_there_is_and_not_where():
    images = torch.rand(4, 1, 8, 8, generator=stream("i"))
    layer = torch.randn(1, 3, 4, 4, generator=stream("l")) * 3
    moved = torch.cat([layer.roll(i, 3) for i in range(4)])
    scaled = torch.cat([layer + i for i in range(4)])
    assert float(repulsion.composition(of_one_class(images, (standard(moved),)))) > 3
    assert float(repulsion.composition(of_one_class(images, (standard(scaled),)))) == 0
    assert float(repulsion.composition(of_one_class(images))) == 0


def test_the_vendi_term_bounds_the_vendi_score():
    random = stream("v")
    orthogonal = torch.eye(64)[:5].view(5, 1, 8, 8)
    copies = torch.rand(1, 1, 8, 8, generator=random).expand(5, -1, -1, -1)
    assert float(repulsion.vendi(of_one_class(orthogonal))) == pytest.approx(-math.log(5))
    assert float(repulsion.vendi(of_one_class(copies))) == pytest.approx(0, abs=1e-5)
    mixed = torch.rand(20, 1, 8, 8, generator=random) ** 3
    assert -float(repulsion.vendi(of_one_class(mixed))) < math.log(vendi_score(mixed.flatten(1)))


# --- sureness --------------------------------------------------------------------------------


def asked_with(ratio, logits):
    """A sample whose targets' two largest entries differ by `ratio` nats."""
    target = torch.tensor([[ratio, 0.0, -1.0, -1.0]]).softmax(1).expand(len(logits), -1)
    sample = draw_sample(len(logits))
    condition = sample.condition._replace(
        target=target, label=torch.zeros(len(logits), dtype=torch.int64)
    )
    prediction = sample.prediction._replace(logits=logits)
    return sample._replace(condition=condition, prediction=prediction)


def test_sureness_is_the_cross_entropy_where_little_is_asked():
    logits = torch.randn(6, 4, generator=stream("s")).double()
    sample = asked_with(1.0, logits)
    assert float(sureness.sureness(sample)) == pytest.approx(float(paper.cross_entropy(sample)))


def test_sureness_asks_for_a_margin_in_proportion_to_the_target():
    """A temperature of 2 asks twice as much of a margin twice as large."""
    logits = torch.randn(6, 4, generator=stream("s")).double()
    little = float(sureness.sureness(asked_with(2 / 2 / sureness.PER_NAT, logits)))
    much = float(sureness.sureness(asked_with(2 / sureness.PER_NAT, 2 * logits)))
    assert much == pytest.approx(2 * little)


def test_sureness_goes_on_where_cross_entropy_is_content():
    def gradient(ratio):
        logits = torch.tensor([[9.0, 0.0, 0.0, 0.0]], requires_grad=True)
        return torch.autograd.grad(sureness.sureness(asked_with(ratio, logits)), logits)[0][0, 0]

    assert gradient(20.0) < 20 * gradient(0.0) < 0
    assert gradient(20.0) == gradient(200.0)  # the most that is asked, so of a one-hot target
