"""One contract that every plug-in keeps, those registered later as well."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from preimage import terms, zoo
from preimage.classifier import Classifier
from preimage.conditioning import make_scheme
from preimage.conditioning import names as schemes
from preimage.config import GeneratorConfig, InvertConfig
from preimage.data import load
from preimage.generator import Generator, plane_size
from preimage.inversion import Inversion, predict
from preimage.loop import default_objective
from preimage.runtime import stream
from preimage.sources import load_classifier
from preimage.types import Condition, ImageSpec, Prediction, Sample
from preimage.zoo.architectures import build
from preimage.zoo.architectures import names as architectures
from tiny import draw_sample, standard

SPECS = [
    ImageSpec(1, 8, 8),
    ImageSpec(1, 28, 28),
    ImageSpec(3, 33, 47),
    ImageSpec(3, 64, 64),
]
CLASSES = [2, 10, 43, 1000]
SMALL = GeneratorConfig(latent=6, width=4, dropout=0.3)


def labels_of(classes: int) -> torch.Tensor:
    return torch.arange(max(32, min(classes, 200))) % classes


# --- conditioning ---------------------------------------------------------------------------


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", schemes())
def test_targets_are_distributions_whose_argmax_is_the_label(name, classes):
    labels = labels_of(classes)
    before = labels.clone()
    condition = make_scheme(name, classes, (7, 7), 4.0, 2.0)(labels, stream("t"))
    assert torch.equal(labels, before) and torch.equal(condition.label, labels)
    assert condition.target.shape == (len(labels), classes)
    torch.testing.assert_close(condition.target.sum(1), torch.ones(len(labels)))
    assert (condition.target >= 0).all()
    assert torch.equal(condition.target.argmax(1), labels)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", schemes())
def test_no_two_classes_have_the_same_condition(name, classes):
    scheme = make_scheme(name, classes, (7, 9), 4.0, 2.0)
    labels = torch.arange(classes)
    condition = scheme(labels, stream("t"))
    given = [part.flatten(1) for part in (condition.vector, condition.planes) if part is not None]
    assert given and len(torch.cat(given, 1).unique(dim=0)) == classes
    if condition.planes is not None:
        assert condition.planes.shape == (classes, scheme.plane_count, 7, 9)
        assert len(condition.planes.flatten(1).unique(dim=0)) == classes
    if condition.vector is not None:
        assert condition.vector.shape == (classes, scheme.vector_size)
        assert torch.equal(condition.vector.argmax(1), labels)


# --- generator ------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", schemes())
def test_images_have_the_shape_and_range_asked_for(name, spec):
    scheme = make_scheme(name, 5, plane_size(spec), 4.0, 2.0)
    generator = Generator(spec, scheme, SMALL)
    labels = torch.arange(6) % 5
    images = generator(generator.noise(6, stream("n")), scheme(labels, stream("c")))
    assert images.shape == (6, *spec.shape) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("name", schemes())
def test_every_generator_parameter_gets_a_gradient(name):
    spec = ImageSpec(1, 12, 12)
    torch.manual_seed(0)
    classifier = Classifier(build("cnn", spec, 4, 8), spec)
    classifier.eval()
    scheme = make_scheme(name, 4, plane_size(spec), 4.0, 2.0)
    generator = Generator(spec, scheme, SMALL)
    condition = scheme(torch.arange(16) % 4, stream("c"))
    images = generator(generator.noise(16, stream("n")), condition)
    default_objective(InvertConfig())(Sample(images, condition, classifier(images))).backward()
    silent = [
        name
        for name, parameter in generator.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert silent == []


def untrained(name: str) -> Inversion:
    config = InvertConfig(conditioning=name, generator=SMALL)
    inversion = Inversion(ImageSpec(1, 12, 12), tuple("abcd"), config)
    inversion.generator(*inversion.draw(torch.arange(64) % 4, stream("warm")))  # batch norm
    return inversion


@pytest.mark.parametrize("name", schemes())
def test_saved_and_loaded_gives_the_same_samples(name, tmp_path):
    inversion = untrained(name)
    inversion.save(tmp_path / "g.safetensors")
    loaded = Inversion.load(tmp_path / "g.safetensors")
    labels = torch.arange(20) % 4
    assert loaded.config == inversion.config and loaded.class_names == inversion.class_names
    assert torch.equal(loaded.images(labels, seed=3), inversion.images(labels, seed=3))
    assert not torch.equal(loaded.images(labels, seed=3), inversion.images(labels, seed=4))


@pytest.mark.parametrize("name", schemes())
def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(name):
    inversion = untrained(name)
    noise, condition = inversion.draw(torch.arange(20) % 4, stream("x"))
    order = torch.randperm(20, generator=stream("order"))
    whole = inversion._render(noise, condition)
    shuffled = inversion._render(
        type(noise)(*(part[order] for part in noise)),
        Condition(*(None if part is None else part[order] for part in condition)),
    )
    torch.testing.assert_close(shuffled, whole[order], atol=1e-6, rtol=0)
    alone = inversion._render(noise.rows(slice(3, 4)), condition.rows(slice(3, 4)))
    torch.testing.assert_close(alone, whole[3:4], atol=1e-6, rtol=0)


def test_dropout_stays_on_while_sampling():
    inversion = untrained("label")
    noise, condition = inversion.draw(torch.zeros(8, dtype=torch.int64), stream("x"))
    same_latent = noise._replace(latent=noise.latent[:1].expand(8, -1))
    images = inversion._render(same_latent, condition)
    assert len(images.flatten(1).unique(dim=0)) == 8
    without = Inversion(
        inversion.spec,
        inversion.class_names,
        InvertConfig(generator=GeneratorConfig(latent=6, width=4, dropout=0.0)),
    )
    assert without.generator.noise(2, stream("x")).keep.shape == (2, 0)


# --- losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("name", terms.names())
def test_terms_are_finite_at_extremes(name, scale):
    sample = draw_sample()
    parts = (*sample.prediction, *(layer.values for layer in sample.layers))
    inputs = [part.mul(scale).requires_grad_() for part in parts]
    images = sample.images.mul(min(1.0, abs(scale))).requires_grad_()
    value = terms.find(name)(rebuilt(sample, images, *inputs))
    assert value.ndim == 0 and torch.isfinite(value)
    for gradient in torch.autograd.grad(value, [images, *inputs], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def rebuilt(sample, images, logits, features, *layers) -> Sample:
    return Sample(
        images, sample.condition, Prediction(logits, features), tuple(map(standard, layers))
    )


@pytest.mark.parametrize("name", terms.names())
def test_gradients_agree_with_finite_differences(name):
    sample = draw_sample(batch=5)
    condition = sample.condition._replace(target=sample.condition.target.double())
    sample = sample._replace(condition=condition)
    parts = (sample.images, *sample.prediction, *(layer.values for layer in sample.layers))
    inputs = [part.double().requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(
        lambda *given: terms.find(name)(rebuilt(sample, *given)), inputs
    )


@pytest.mark.parametrize("name", terms.names())
def test_the_order_of_the_batch_does_not_matter_and_nothing_is_changed(name):
    sample = draw_sample()
    before = copy.deepcopy(sample)
    order = torch.randperm(12, generator=stream("order"))
    shuffled = Sample(
        sample.images[order],
        sample.condition.rows(order),
        Prediction(*(part[order] for part in sample.prediction)),
        tuple(layer._replace(values=layer.values[order]) for layer in sample.layers),
    )
    term = terms.find(name)
    torch.testing.assert_close(term(shuffled), term(sample))
    for one, other in zip(
        (sample.images, *sample.prediction, *(layer.values for layer in sample.layers)),
        (before.images, *before.prediction, *(layer.values for layer in before.layers)),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert torch.equal(sample.condition.label, before.condition.label)


@pytest.mark.parametrize("name", terms.names())
def test_terms_accept_one_image_and_a_classifier_without_batch_norm(name):
    for sample in (draw_sample(1), draw_sample()._replace(layers=())):
        assert torch.isfinite(terms.find(name)(sample))


# --- classifiers ----------------------------------------------------------------------------


def check_classifier(classifier: Classifier) -> None:
    state = {k: v.clone() for k, v in classifier.network.state_dict().items()}
    images = torch.rand(6, *classifier.spec.shape, generator=stream("images"))
    before = images.clone()
    answer = predict(classifier, images)
    assert answer.logits.shape == (6, classifier.classes)
    assert answer.features.shape == (6, classifier.feature_size)
    assert torch.isfinite(answer.logits).all()
    assert torch.equal(images, before)
    shuffled = predict(classifier, images.flip(0))
    torch.testing.assert_close(shuffled.logits.flip(0), answer.logits, atol=1e-4, rtol=1e-4)
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for module in classifier.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("classes", [2, 43])
@pytest.mark.parametrize("spec", [ImageSpec(1, 8, 8), ImageSpec(3, 32, 32)], ids=str)
@pytest.mark.parametrize("name", architectures())
def test_architectures(name, spec, classes):
    check_classifier(Classifier(build(name, spec, classes, 16), spec))


@pytest.mark.parametrize("name", zoo.bundled())
def test_bundled_classifiers(name):
    classifier = load_classifier(name)
    check_classifier(classifier)
    assert len(classifier.class_names) == classifier.classes


def test_the_bundle_is_complete_and_small():
    names = {"mnist", "fashion_mnist", "cifar10", "gtsrb"}
    assert set(zoo.bundled()) == names | {f"{name}-evaluator" for name in names}
    assert sum(zoo.weights(name).stat().st_size for name in zoo.bundled()) < 25e6


# --- data -----------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    return np.random.default_rng(0).integers(0, 255, (8, 10, 12, 3), dtype=np.uint8)


def image_folder(path, images):
    for i, image in enumerate(images):
        folder = path / "folder" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return path / "folder"


def npz(path, images):
    np.savez(path / "set.npz", images=images, labels=np.arange(8) % 2)
    return path / "set.npz"


def parquet(path, images):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {"image": [Image.fromarray(i) for i in images], "label": [i % 2 for i in range(8)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path / "set.parquet"))
    return path / "set.parquet"


@pytest.mark.parametrize("make", [image_folder, npz, parquet])
def test_data_sources(make, images, tmp_path):
    with pytest.warns(UserWarning, match="no splits"):
        found = load(str(make(tmp_path, images)))
    assert found.images.dtype == torch.uint8 and found.images.shape == (8, 3, 10, 12)
    assert found.labels.dtype == torch.int64 and found.classes == 2
    assert sorted(found.labels.tolist()) == [0] * 4 + [1] * 4
    pixels = {image.tobytes() for image in images}
    assert {i.permute(1, 2, 0).numpy().tobytes() for i in found.images} == pixels
