"""Known answers, an independent reference, and evaluate() on generators whose figures are known."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from torch import nn

from preimage import diversity, metrics
from preimage.classifier import Classifier
from preimage.data import ImageSet
from preimage.diversity import first_of_each_class
from preimage.drawing import CHUNK, to_bytes
from preimage.errors import PreimageError
from preimage.metrics import Metrics, evaluate, precision_coverage, vendi, within_class_vendi
from preimage.student import StudentConfig
from preimage.types import Condition, ImageSpec, Prediction, Sample

K = 4
SPEC = ImageSpec(1, 12, 12)
TINY = StudentConfig(arch="mlp", width=8, images=48, steps=3, batch=16)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def patterns(labels, noise, generator):
    """Class k lights up quadrant k."""
    images = torch.rand(len(labels), *SPEC.shape, generator=generator) * noise
    for row, k in enumerate(labels.tolist()):
        images[row, :, 6 * (k // 2) :, 6 * (k % 2) :][:, :6, :6] += 1 - noise
    return images


def quadrants(images):
    """Five times the one-hot brightest quadrant; features: all pixels."""
    brightest = nn.functional.avg_pool2d(images, 6).flatten(1).argmax(1)
    return Prediction(5.0 * nn.functional.one_hot(brightest, K), images.flatten(1))


def swapped(images):
    """As quadrants, but calls 0 what is 1 and the other way round."""
    logits, features = quadrants(images)
    return Prediction(logits[:, [1, 0, 2, 3]], features)


def answered(images, labels):
    condition = Condition(labels, torch.zeros(len(labels), K), None, None)  # not looked at
    return Sample(images, condition, quadrants(images))


def three_in_four(labels, seed):
    """Right for the classes 0, 1, 2; class 0 instead of 3."""
    shown = torch.where(labels == 3, 0, labels)
    return answered(patterns(shown, 0.3, torch.Generator().manual_seed(seed)), labels)


def collapsed(labels, seed):
    return answered(patterns(labels, 0.0, torch.Generator()), labels)


def real_set(counts=(20, 15, 12, 9), noise=0.5):
    labels = torch.arange(K).repeat_interleave(torch.tensor(counts))
    generator = torch.Generator().manual_seed(7)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = patterns(labels, noise, generator).mul(255).round().to(torch.uint8)
    return ImageSet("quadrants", "test", images, labels, tuple("abcd"))


class Copier:
    """Gives the real images of the class asked for, one after the other."""

    def __init__(self, real):
        self.pools = [real.floats(real.labels == k) for k in range(K)]
        self.given = Counter()

    def __call__(self, labels, seed):
        images = []
        for k in labels.tolist():
            images.append(self.pools[k][self.given[k] % len(self.pools[k])])
            self.given[k] += 1
        return answered(torch.stack(images), labels)


# --- Vendi score


@pytest.mark.parametrize("size", [3, 40], ids=["D<N", "D>N"])
def test_vendi_of_identical_vectors_is_one(size):
    assert vendi(torch.rand(1, size).repeat(10, 1)) == pytest.approx(1)


def test_vendi_of_orthogonal_vectors_is_their_number():
    assert vendi(torch.diag(torch.arange(1.0, 9.0))) == pytest.approx(8)
    assert vendi(torch.eye(8, 300)) == pytest.approx(8)


def test_vendi_of_two_equal_clusters_is_two_and_of_unequal_ones_less():
    first, second = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 2.0, 0]])
    assert vendi(torch.cat([first.repeat(5, 1), second.repeat(5, 1)])) == pytest.approx(2)
    shares = np.array([0.9, 0.1])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert vendi(torch.cat([first.repeat(9, 1), second])) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (12, 12)])
def test_vendi_agrees_with_an_independent_reference(shape):
    vectors = np.random.default_rng(0).normal(size=shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    singular = np.linalg.svd(unit / math.sqrt(shape[0]), compute_uv=False)
    p = singular[singular > 1e-12] ** 2
    assert vendi(torch.from_numpy(vectors)) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_vendi_takes_bytes_and_ignores_order_and_scale():
    vectors = torch.randint(0, 256, (20, 30), dtype=torch.uint8)
    score = vendi(vectors)
    assert 1 < score < 20
    assert vendi(vectors[torch.randperm(20)]) == pytest.approx(score)
    assert vendi(vectors.float() / 255 * torch.rand(20, 1).add(0.1)) == pytest.approx(score)


def test_vendi_counts_black_images_as_one_direction():
    assert vendi(torch.zeros(6, 4)) == pytest.approx(1)
    assert vendi(torch.cat([torch.zeros(3, 4), torch.ones(3, 4)])) == pytest.approx(2)


@pytest.mark.parametrize("shape", [(6, 50), (50, 6)])
def test_vendi_decomposes_the_smaller_of_the_two_matrices(shape, monkeypatch):
    sizes = []
    solve = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda x: sizes.append(x.shape) or solve(x))
    vendi(torch.rand(shape))
    assert sizes == [(6, 6)]


@pytest.mark.parametrize("bad", [torch.full((3, 2), torch.nan), torch.empty(0, 2), torch.ones(3)])
def test_vendi_refuses_what_it_cannot_measure(bad):
    with pytest.raises(PreimageError, match="Vendi"):
        vendi(bad)


def test_within_class_vendi_is_the_mean_over_classes_that_have_two():
    vectors = torch.cat([torch.eye(6)[:3], torch.ones(4, 6), torch.eye(6)[:1]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    order = torch.randperm(8)
    score = within_class_vendi(vectors[order], labels[order], torch.tensor([3, 4, 1]))
    assert score == pytest.approx((3 + 1) / 2)


def test_within_class_vendi_takes_the_first_of_each_class():
    vectors = torch.cat([torch.ones(2, 6), torch.eye(6)])
    labels = torch.zeros(8, dtype=torch.int64)
    assert within_class_vendi(vectors, labels, torch.tensor([2])) == pytest.approx(1)
    assert within_class_vendi(vectors, labels, torch.tensor([8])) > 3


@pytest.mark.parametrize("counts", [[3, 0], [2, 5], [1, 1], [0, 0]])
def test_within_class_vendi_refuses_too_few(counts):
    with pytest.raises(PreimageError, match="at least"):
        within_class_vendi(torch.rand(4, 3), torch.tensor([0, 0, 1, 1]), torch.tensor(counts))


def test_first_of_each_class_keeps_the_order_of_the_set():
    labels = torch.tensor([1, 0, 1, 1, 2, 0])
    kept = first_of_each_class(labels, torch.tensor([1, 2, 0]))
    assert kept.tolist() == [True] * 3 + [False] * 3


# --- precision and coverage


def brute_force(real, fake, k):
    """Both figures by plain loops over float64 distances."""
    between_real = np.sqrt(((real[:, None] - real[None]) ** 2).sum(-1))
    radius = np.sort(between_real, axis=1)[:, k]
    to_fake = np.sqrt(((real[:, None] - fake[None]) ** 2).sum(-1))
    precision = np.mean([(to_fake[:, j] <= radius).any() for j in range(len(fake))])
    coverage = np.mean([(to_fake[i] <= radius[i]).any() for i in range(len(real))])
    return precision, coverage


@pytest.mark.parametrize(("n", "m"), [(600, 600), (513, 90), (40, 700)])
@pytest.mark.parametrize("k", [1, 5])
def test_precision_coverage_agree_with_brute_force(n, m, k):
    random = np.random.default_rng(n + k)
    real, fake = random.normal(size=(n, 3)), random.normal(1.5, 1.3, size=(m, 3))
    found = precision_coverage(torch.from_numpy(real), torch.from_numpy(fake), k)
    assert found == pytest.approx(brute_force(real, fake, k))
    assert 0.01 < min(found) <= max(found) < 1


def test_precision_coverage_do_not_depend_on_chunks_or_order(monkeypatch):
    real, fake = torch.randn(64, 4), torch.randn(50, 4) + 1
    whole = precision_coverage(real, fake)
    shuffled = precision_coverage(real[torch.randperm(64)], fake[torch.randperm(50)])
    assert shuffled == pytest.approx(whole)
    for chunk in (1, 7, 64, 65):
        monkeypatch.setattr(diversity, "_CHUNK", chunk)
        assert precision_coverage(real, fake) == pytest.approx(whole)


def test_precision_coverage_do_not_depend_on_the_origin():
    real, fake = torch.randn(64, 4).double(), torch.randn(50, 4).double() + 1
    assert precision_coverage(real + 1e6, fake + 1e6) == precision_coverage(real, fake)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_copy_of_the_real_set_is_all_precise_and_covers_all(offset):
    real = torch.randn(50, 6).repeat(8, 1) + offset  # eight copies each: every radius is zero
    assert precision_coverage(real, real.clone()) == (1, 1)


def test_sets_far_apart_have_neither_precision_nor_coverage():
    real = torch.randn(60, 6)
    assert precision_coverage(real, real + 100) == (0, 0)


def test_fakes_collapsed_to_one_real_point_are_precise_and_cover_little():
    real = torch.randn(300, 4)
    precision, coverage = precision_coverage(real, real[:1].repeat(300, 1))
    assert precision == 1
    assert 1 / 300 <= coverage < 0.1


@pytest.mark.parametrize(
    ("real", "fake", "k"),
    [
        (torch.rand(5, 2), torch.rand(5, 2), 5),
        (torch.rand(9, 2), torch.rand(9, 2), 0),
        (torch.rand(9, 2), torch.rand(9, 3), 5),
        (torch.rand(9, 2), torch.rand(0, 2), 5),
        (torch.rand(9, 2), torch.full((9, 2), torch.inf), 5),
    ],
    ids=["few real", "k", "sizes", "no fakes", "infinite"],
)
def test_precision_coverage_refuse_bad_input(real, fake, k):
    with pytest.raises(PreimageError, match="expected"):
        precision_coverage(real, fake, k)


# --- evaluate


def test_images_are_rounded_to_the_nearest_byte():
    levels = torch.arange(256)
    for off in (-0.4, 0.0, 0.4):
        images = ((levels + off) / 255).clamp(0, 1)
        assert torch.equal(to_bytes(images), levels.to(torch.uint8))


def test_accuracies_and_confidence_are_the_known_ones():
    found = evaluate(three_in_four, quadrants, classes=K, evaluator=swapped, samples=3 * CHUNK + 60)
    right, wrong = math.exp(5) / (math.exp(5) + 3), 1 / (math.exp(5) + 3)
    assert found.inversion_accuracy == 0.75
    assert found.evaluator_accuracy == 0.25
    assert found.confidence == pytest.approx(0.75 * right + 0.25 * wrong)


def test_a_generator_that_copies_the_real_images_has_their_figures():
    real = real_set()
    found = evaluate(
        Copier(real), quadrants, classes=K, evaluator=quadrants, real=real, samples=80, student=None
    )
    assert found.inversion_accuracy == found.evaluator_accuracy == 1
    assert found.vendi_pixel == pytest.approx(found.vendi_pixel_real)
    assert found.vendi_feature == pytest.approx(found.vendi_feature_real)
    assert (found.precision, found.coverage) == (1, 1)
    classes = [real.images[real.labels == k].flatten(1) for k in range(K)]
    assert found.vendi_pixel_real == pytest.approx(sum(map(vendi, classes)) / K)


def test_real_and_generated_are_compared_in_equal_numbers():
    real, samples = real_set((20, 15, 12, 1)), 4 * 14
    found = evaluate(Copier(real), quadrants, classes=K, real=real, samples=samples, student=None)
    counts = (14, 14, 12)  # the class with a single image is left out
    classes = [real.images[real.labels == k][:n].flatten(1) for k, n in enumerate(counts)]
    assert found.vendi_pixel_real == pytest.approx(sum(map(vendi, classes)) / 3)
    assert found.vendi_pixel == pytest.approx(found.vendi_pixel_real)


@pytest.mark.parametrize(
    ("limit", "value", "most"),
    [("VENDI_COUNT", 5, 5), ("MOST_BYTES", 2 * K * 144 * 3, 3), ("MOST_BYTES", 1, 2)],
)
def test_vendi_takes_no_more_of_a_class_than_allowed(monkeypatch, limit, value, most):
    monkeypatch.setattr(metrics, limit, value)
    real = real_set()
    found = evaluate(Copier(real), quadrants, classes=K, real=real, samples=80, student=None)
    classes = [real.images[real.labels == k][:most].flatten(1) for k in range(K)]
    assert found.vendi_pixel_real == pytest.approx(sum(map(vendi, classes)) / K)
    assert found.vendi_pixel == pytest.approx(found.vendi_pixel_real)


@pytest.mark.parametrize(("most", "per_class"), [(10_000, (20, 15, 12, 9)), (40, (10, 10, 10, 9))])
def test_precision_and_coverage_compare_equal_numbers_of_each_class(monkeypatch, most, per_class):
    monkeypatch.setattr(metrics, "PAIR_COUNT", most)
    compared = []
    monkeypatch.setattr(
        metrics, "precision_coverage", lambda *given: compared.append(given) or (0.5, 0.25)
    )
    found = evaluate(
        collapsed,
        quadrants,
        classes=K,
        evaluator=quadrants,
        real=real_set(),
        samples=80,
        student=None,
    )
    assert (found.precision, found.coverage) == (0.5, 0.25)
    [(real, fake, k)] = compared
    assert k == 5
    for vectors in (real, fake):
        shown = quadrants(vectors.view(-1, *SPEC.shape)).logits.argmax(1)
        assert tuple(torch.bincount(shown).tolist()) == per_class


def test_collapse_shows_in_every_figure_but_accuracy():
    found = evaluate(
        collapsed,
        quadrants,
        classes=K,
        evaluator=quadrants,
        real=real_set(),
        samples=80,
        student=None,
    )
    assert found.inversion_accuracy == 1
    assert found.vendi_pixel == pytest.approx(1)
    assert found.vendi_feature == pytest.approx(1)
    assert found.vendi_pixel_real > 1.5


def test_without_evaluator_and_real_images_their_figures_are_none():
    found = asdict(evaluate(three_in_four, quadrants, classes=K, samples=40, student=TINY))
    measured = {name for name, value in found.items() if value is not None}
    assert measured == {"inversion_accuracy", "confidence", "vendi_pixel"}


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (
            {"evaluator": swapped},
            {"vendi_pixel_real", "vendi_feature_real", "precision", "coverage", "student_accuracy"},
        ),
        (
            {"real": real_set()},
            {"evaluator_accuracy", "vendi_feature", "vendi_feature_real", "precision", "coverage"},
        ),
        ({"evaluator": swapped, "real": real_set(), "student": None}, {"student_accuracy"}),
        (
            {"evaluator": swapped, "real": real_set((1, 1, 1, 1)), "student": None},
            {field.name for field in fields(Metrics)}
            - {"inversion_accuracy", "evaluator_accuracy", "confidence"},
        ),
    ],
    ids=["no real images", "no evaluator", "no student", "hardly any real images"],
)
def test_a_figure_is_none_just_where_it_cannot_be_measured(given, missing):
    found = evaluate(three_in_four, quadrants, classes=K, samples=40, **({"student": TINY} | given))
    assert {name for name, value in asdict(found).items() if value is None} == missing


def test_the_student_learns_in_the_precision_that_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(metrics, "student_accuracy", lambda *_, **how: asked.append(how) or 0.5)
    real = {"classes": K, "samples": 40, "student": TINY, "real": real_set()}
    evaluate(three_in_four, quadrants, **real, precision="32-true")
    evaluate(three_in_four, quadrants, **real)
    assert [how["precision"] for how in asked] == ["32-true", "auto"]


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others():
    def run(seed):
        return evaluate(
            three_in_four,
            quadrants,
            classes=K,
            evaluator=quadrants,
            real=real_set(),
            seed=seed,
            samples=CHUNK + 20,
            student=TINY,
        )

    first = run(3)
    torch.rand(5)  # the global stream has moved on
    assert run(3) == first
    assert run(4).vendi_pixel != first.vendi_pixel


def test_every_chunk_has_its_own_seed_and_balanced_classes():
    seen, seeds = [], []

    def draw(labels, seed):
        seen.append(labels)
        seeds.append(seed)
        return three_in_four(labels, seed)

    evaluate(draw, quadrants, classes=K, samples=2 * CHUNK + 3, student=None)
    assert len(set(seeds)) == len(seeds) == 3
    assert torch.bincount(torch.cat(seen)).tolist() == [101, 101, 101, 100]


def test_a_classifier_in_training_mode_is_asked_in_evaluation_mode_and_put_back():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144), nn.Dropout(), nn.Linear(144, K))
    evaluator = Classifier(network, SPEC).train()
    state = {name: value.clone() for name, value in evaluator.state_dict().items()}
    results = {
        evaluate(three_in_four, quadrants, classes=K, evaluator=evaluator, samples=40, student=None)
        for _ in range(3)
    }
    assert len(results) == 1
    assert all(module.training for module in evaluator.modules())
    assert all(torch.equal(value, state[name]) for name, value in evaluator.state_dict().items())


def test_progress_ends_at_the_total():
    last = {}
    evaluate(
        three_in_four,
        quadrants,
        classes=K,
        evaluator=quadrants,
        real=real_set(),
        samples=CHUNK + 1,
        student=TINY,
        on_progress=lambda stage, done, total: last.update({stage: (done, total)}),
    )
    assert set(last) == {"samples", "real images", "student images", "student steps"}
    assert all(done == total for done, total in last.values())


def nan_images(labels, seed):
    return three_in_four(labels, seed)._replace(
        images=torch.full((len(labels), 1, 12, 12), torch.nan)
    )


def nan_logits(labels, seed):
    sample = three_in_four(labels, seed)
    return sample._replace(prediction=Prediction(sample.prediction.logits * torch.nan, None))


def one_image(labels, seed):
    return answered(patterns(labels[:1], 0.3, torch.Generator()), labels[:1])


@pytest.mark.parametrize(
    ("draw", "given", "reason"),
    [
        (nan_images, {}, "NaN or infinity in 40 of 40"),
        (nan_logits, {}, "finite logits of the target"),
        (one_image, {}, "expected 40 generated images"),
        (three_in_four, {"classes": 5}, "logits of shape"),
        (three_in_four, {"samples": 0}, "at least 1 sample"),
        (
            three_in_four,
            {"evaluator": lambda x: Prediction(torch.zeros(len(x), 7), x.flatten(1))},
            "the evaluator to answer",
        ),
        (three_in_four, {"real": real_set().subset(slice(0))}, "found 0 images"),
        (three_in_four, {"real": real_set().convert(ImageSpec(3, 12, 12))}, "shape 3x12x12"),
        (three_in_four, {"real": real_set(), "classes": 5}, "labelled with 5 classes"),
        (nan_images, {"student": StudentConfig(arch="vgg")}, "'vgg'"),
        (nan_images, {"student": StudentConfig(steps=0)}, "student's steps"),
        (nan_images, {"student": StudentConfig(cutmix=1.5)}, "student's cutmix"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(draw, given, reason):
    with pytest.raises(PreimageError, match=reason) as error:
        evaluate(draw, quadrants, **({"classes": K, "samples": 40} | given))
    assert "\n" not in str(error.value)
