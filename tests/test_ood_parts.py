"""The parts of out-of-distribution detection, each on its own."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pytorch_ood.detector import MaxSoftmax
from pytorch_ood.metrics import OODMetrics
from torch import nn

import tiny
from preimage.classifier import Classifier
from preimage.config import HardenConfig
from preimage.data import ImageSet
from preimage.errors import PreimageError
from preimage.ood.baselines import fit_baseline
from preimage.ood.distances import WIDEST, ClassDistance, sketch
from preimage.ood.eval_page import mistakes
from preimage.ood.evaluation import Evaluation, Unknown
from preimage.ood.exclusion import Known, find_rule, rule_names
from preimage.ood.figures import separation
from preimage.ood.gauge import Gauge, measures
from preimage.ood.guard import AccuracyGuard
from preimage.ood.hardening import _Loop
from preimage.ood.heads import extend, with_garbage
from preimage.ood.layers import LayerDistance, look
from preimage.ood.nearness import Nearness
from preimage.ood.pool import GarbagePool, farthest_points
from preimage.ood.scores import (
    Evidence,
    find_score,
    garbage_odds,
    score_names,
    uncertainty_estimate,
)
from preimage.ood.shortcuts import find_shortcuts, same_path, softened
from preimage.ood.synthetic import make_synthetic, synthetic_names
from preimage.pages import STRIP
from preimage.runtime import stream
from preimage.types import ImageSpec, Prediction
from preimage.zoo.architectures import build

SPEC = ImageSpec(1, 8, 8)
SPECS = [ImageSpec(1, 8, 8), ImageSpec(3, 32, 32), ImageSpec(3, 33, 47), ImageSpec(1, 28, 28)]


def normal(*size, key="normal"):
    return torch.randn(*size, generator=stream(key))


def image_set(images, name="some"):
    labels = torch.arange(len(images)) % 2
    return ImageSet(name, "test", images, labels, ("a", "b"))


def bands(count, seed=0):
    images, labels = tiny.bands(count, seed)
    return ImageSet(
        "bands",
        "all",
        torch.from_numpy(images)[:, None],
        torch.from_numpy(labels),
        tuple("abc"),
    )


def evidence_of(logits, views=None):
    views = torch.zeros(len(logits), 3) if views is None else views
    return Evidence(logits, *views.unbind(1))


# --- scores ---------------------------------------------------------------------------------


def test_uncertainty_is_zero_for_one_hot_and_one_for_uniform():
    rows = torch.stack([torch.eye(5)[2], torch.full((5,), 0.2)])
    assert uncertainty_estimate(rows).tolist() == pytest.approx([0, 1], abs=1e-6)


def test_uncertainty_is_the_papers_formula():
    p = normal(7, 4).softmax(1)
    expected = []
    for row in p.tolist():
        k = row.index(max(row))
        above = sum((value - 1 / 4) ** 2 for value in row)
        below = sum(((i == k) - 1 / 4) ** 2 for i in range(4))
        expected.append(1 - above / below)
    assert uncertainty_estimate(p).tolist() == pytest.approx(expected, abs=1e-6)


def test_garbage_odds_follow_the_probability_even_where_it_rounds_to_one():
    logits = torch.tensor([[0.0, 0, 0], [0, 0, 40], [0, 0, 60], [60, 0, 0]])
    odds = garbage_odds(logits)
    probability = logits[:3].softmax(1)[:, -1]
    assert probability[1] == probability[2] == 1  # float32
    assert odds[3] < odds[0] < odds[1] < odds[2]
    assert odds[0] == pytest.approx(math.log(1 / 2))


@pytest.mark.parametrize("name", score_names())
def test_a_score_is_larger_for_what_is_farther_out(name):
    known, between, garbage = [9.0, 0, 0, -9], [1.0, 1, 1, 0], [0.0, 0, 0, 9]
    views = torch.tensor([[0.0, 0, 0], [1, 2, 1], [3, 5, 2]])
    scores = find_score(name)(evidence_of(torch.tensor([known, between, garbage]), views))
    assert scores.shape == (3,)
    assert scores[0] < scores[1]
    if name != "uncertainty":  # which knows of no garbage
        assert scores[1] < scores[2]


def test_an_unknown_score_is_one_sentence():
    with pytest.raises(PreimageError, match=r"a score out of garbage, .*found 'nonsense'"):
        find_score("nonsense")


def test_own_confidence_is_that_of_pytorch_ood():
    logits = 3 * normal(50, 4)
    plain = MaxSoftmax(None).predict_logits(logits)
    scorer = fit_baseline("msp", None)  # which asks for nothing that is fitted
    assert torch.equal(scorer(logits, Prediction(logits, logits)), plain)


# --- figures --------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0, -2.0])
def test_figures_agree_with_pytorch_ood(shift):
    known, unknown = normal(300, key="a"), normal(200, key="b") + shift
    ours = separation(known, unknown)
    metrics = OODMetrics()
    metrics.update(known, torch.zeros(300).long())
    metrics.update(unknown, -torch.ones(200).long())
    theirs = {name.lower(): float(value) for name, value in metrics.compute().items()}
    assert ours.auroc == pytest.approx(theirs["auroc"], abs=1e-6)
    assert ours.fpr95 == pytest.approx(theirs["fpr95tpr"], abs=1e-6)
    # they join the points of the curve by lines, average precision by steps
    assert ours.aupr_in == pytest.approx(theirs["aupr-in"], abs=0.01)
    assert ours.aupr_out == pytest.approx(theirs["aupr-out"], abs=0.01)


def test_figures_of_scores_beyond_the_range_of_a_sigmoid():
    known, unknown = torch.tensor([1000.0, 1001, 1002]), torch.tensor([1003.0, 1004, 5000])
    assert separation(known, unknown) == (1.0, 1.0, 1.0, 0.0)
    assert separation(unknown, known).auroc == 0.0


def test_ties_count_half():
    same = torch.ones(10)
    assert separation(same, same).auroc == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [torch.tensor([]), torch.tensor([float("nan"), 1.0])])
def test_no_figures_of_nothing_or_of_nan(bad):
    with pytest.raises(PreimageError, match="expected scores without NaN"):
        separation(bad, torch.ones(3))


# --- the pool -------------------------------------------------------------------------------


def test_farthest_points_finds_the_corners():
    corners = torch.tensor([[0.0, 0], [0, 9], [9, 0], [9, 9]])
    crowd = normal(50, 2) * 0.1 + 4.5
    chosen = farthest_points(torch.cat([crowd, corners]), 5, stream("far"))
    assert set(chosen.tolist()) >= {50, 51, 52, 53}
    assert len(set(chosen.tolist())) == 5


def test_farthest_points_of_equal_points_are_all_different():
    chosen = farthest_points(torch.zeros(6, 2), 6, stream("far"))
    assert sorted(chosen.tolist()) == list(range(6))


def test_the_pool_is_bounded_and_keeps_every_round_and_the_noise():
    pool = GarbagePool(SPEC, capacity=100, noise=20, seed=0)
    for _ in range(5):
        added = pool.add(torch.randint(256, (60, *SPEC.shape), dtype=torch.uint8), 40)
        assert added == 40
        assert len(pool) <= 100
    counts = torch.bincount(pool.rounds, minlength=6).tolist()
    assert counts[0] == 20 and sum(counts) == 100
    assert counts[5] == 40 and all(counts[1:5])


def test_a_dropped_round_is_gone():
    pool = GarbagePool(SPEC, 50, 10, seed=0)
    pool.add(torch.zeros(5, *SPEC.shape, dtype=torch.uint8), 5, diverse=False)
    assert (len(pool), pool.last_round) == (15, 1)
    pool.drop_round(1)
    assert (len(pool), pool.last_round) == (10, 0)


def test_diverse_choice_spreads_wider_than_a_random_one():
    many = (normal(400, *SPEC.shape) * 10 + 120).clamp(0, 255).to(torch.uint8)
    many[:8] = torch.arange(8).view(-1, 1, 1, 1) * 36  # flat images, far from all others
    pools = [GarbagePool(SPEC, 100, 1, seed=0) for _ in range(2)]
    for pool, diverse in zip(pools, (True, False), strict=True):
        pool.add(many, 12, diverse=diverse)
    flat = [int((p.images.flatten(1).float().std(1) == 0).sum()) for p in pools]
    assert flat[0] >= 7 > flat[1]


def test_draws_come_from_the_pool():
    pool = GarbagePool(SPEC, 50, 3, seed=0)
    drawn = pool.draw(20, stream("draw")).mul(255).round().to(torch.uint8)
    there = {image.numpy().tobytes() for image in pool.images}
    assert {image.numpy().tobytes() for image in drawn} <= there


# --- exclusion and guard --------------------------------------------------------------------


def test_class_distance_is_mahalanobis_to_the_nearest_mean():
    labels = torch.arange(600) % 3
    features = normal(600, 4) @ torch.diag(torch.tensor([1.0, 2, 3, 4])) + 10 * labels[:, None]
    features = features.double()
    distance = ClassDistance.to_means_of(features, labels)
    point = features[:5] + 3
    means = torch.stack([features[labels == k].mean(0) for k in range(3)])
    centred = features - means[labels]
    precision = torch.linalg.inv(centred.T @ centred / 600)
    gaps = point[:, None] - means
    expected = torch.einsum("bkd,de,bke->bk", gaps, precision, gaps).amin(1)
    assert torch.allclose(distance(point), expected, rtol=0.02)


@pytest.mark.parametrize("name", rule_names())
def test_rules_keep_out_what_they_say(name):
    labels = torch.arange(300) % 3
    known = Known(normal(300, 4) + 5 * labels[:, None], labels)
    certain = torch.tensor([[20.0, 0, 0, 0]])
    near, far = known.features[:1] * 0 + 5, torch.full((1, 4), 99.0)
    inversions = Prediction(
        torch.cat([certain, certain, certain * 0]), torch.cat([near, far, near])
    )
    allowed = {"none": [True, True, True], "certain": [False, False, True]}
    allowed["natural"] = [False, True, False]
    assert find_rule(name)(known)(inversions).tolist() == allowed[name]


def test_the_guard_goes_back_and_then_gives_up():
    guard = AccuracyGuard(margin=0.1, patience=1)
    assert guard.judge(0.5, {"epoch": 1}) == "good"
    assert guard.judge(0.9, {"epoch": 2}) == "good"
    assert guard.judge(0.85, {"epoch": 3}) == "good"
    assert guard.judge(0.79, {"epoch": 4}) == "back"
    assert guard.good == {"epoch": 3}
    assert guard.judge(0.2, {"epoch": 5}) == "stop"
    other = AccuracyGuard(0.1, 1)
    other.load_state_dict(guard.state_dict())
    assert other == guard


# --- heads ----------------------------------------------------------------------------------


def plain():
    return Classifier(tiny.build(), SPEC, class_names=tuple("abc"))


@pytest.mark.parametrize("mode", ["extend", "beside"])
def test_garbage_is_added_and_the_classes_stay(mode):
    classifier = plain()
    images = torch.rand(6, *SPEC.shape, generator=stream("heads"))
    before = classifier(images).logits
    wider = with_garbage(classifier, mode)
    assert wider.class_names == ("a", "b", "c", "garbage")
    kept = wider(images).logits[:, :3]
    # a wider matrix may be multiplied in another order; what stands beside changes no bit
    assert torch.allclose(kept, before, atol=1e-6)
    assert mode == "extend" or torch.equal(kept, before)
    for parameter in wider.network.parameters():
        parameter.data.add_(1.0)
    assert torch.equal(classifier(images).logits, before)  # a copy was changed


def test_beside_trains_nothing_but_its_own():
    wider = with_garbage(plain(), "beside")
    wider.train()
    learns = [name for name, p in wider.network.named_parameters() if p.requires_grad]
    assert learns and all(name.startswith("garbage.") for name in learns)
    assert not wider.network.inner.training


@pytest.mark.parametrize("arch", ["cnn", "resnet", "vit"])
def test_beside_changes_no_bit_of_an_answer(arch):
    classifier = Classifier(
        build(arch, ImageSpec(3, 32, 32), 3, 8), ImageSpec(3, 32, 32), mean=[0.3] * 3, std=[0.2] * 3
    ).eval()
    images = torch.rand(7, 3, 32, 32, generator=stream("beside"))
    logits, features = classifier(images)
    wider = with_garbage(classifier, "beside").eval()(images)
    assert torch.equal(wider.logits[:, :3], logits) and torch.equal(wider.features, features)


@pytest.mark.parametrize(("classes", "weight"), [(10, 5.0), (10, 2.0), (43, 5.0), (3, 5.0), (2, 1)])
@pytest.mark.parametrize("garbage", [0, 1, 60, 400])
def test_garbage_weighs_so_many_classes_however_much_there_is_and_half_of_all_at_most(
    classes, weight, garbage
):
    real = 20 * classes
    loop = SimpleNamespace(
        classifier=SimpleNamespace(classes=classes + 1), config=HardenConfig(weight=weight)
    )
    labels = torch.cat([torch.arange(real) % classes, torch.full((garbage,), classes)])
    weights = _Loop._weights(loop, labels)
    assert weights.shape == (classes + 1,) and weights[:-1].eq(1).all()
    if garbage:
        share = float(weights[labels[real:]].sum()) / real
        assert share == pytest.approx(min(weight / classes, 0.5))


def test_extend_refuses_logits_that_come_from_elsewhere():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny.build()

        def forward(self, images):
            return self.body(images) * 2

    with pytest.raises(PreimageError, match=r"straight from its last linear layer.*beside"):
        extend(Classifier(Scaled(), SPEC))


# --- layers ---------------------------------------------------------------------------------


def test_layers_know_what_is_usual():
    torch.manual_seed(0)
    network = build("cnn", SPEC, 3, 4)
    real = bands(200).floats()
    network.train()
    for _ in range(20):
        network(real)  # running statistics alone
    classifier = Classifier(network.eval(), SPEC)
    described = look(classifier, real).layers
    assert len(described) == len(classifier.batch_norms())
    distance = LayerDistance().fit([v[::2] for v in described], [v[1::2] for v in described])
    usual = distance(look(classifier, bands(60, seed=5).floats()).layers)
    noise = distance(look(classifier, torch.rand(60, *SPEC.shape)).layers)
    assert usual.shape == (60, len(described))
    assert abs(float(usual.mean())) < 1
    assert separation(usual.mean(1), noise.mean(1)).auroc > 0.95
    again = LayerDistance()
    again.load_state_dict(distance.state_dict())
    torch.testing.assert_close(again(described), distance(described), atol=1e-5, rtol=1e-5)


def test_without_batch_norm_the_features_stand_in():
    found = look(plain(), torch.rand(5, *SPEC.shape))
    assert len(found.layers) == 1
    assert torch.equal(found.layers[0], found.features)


def test_a_constant_map_is_far_but_finite():
    torch.manual_seed(0)
    classifier = Classifier(build("cnn", SPEC, 3, 4).eval(), SPEC)
    described = look(classifier, torch.rand(40, *SPEC.shape)).layers
    distance = LayerDistance().fit(described, described)
    flat = distance(look(classifier, torch.full((2, *SPEC.shape), 0.5)).layers)
    assert bool(torch.isfinite(flat).all())


# --- nearness and gauge ---------------------------------------------------------------------


def three_heaps(count=900):
    """Features round three class means, and the classes."""
    classes = torch.arange(count) % 3
    centres = 4 * normal(3, 5, key="centres")
    return centres[classes] + normal(count, 5) @ torch.diag(torch.arange(1.0, 6) / 3), classes


def test_nearness_is_the_distance_of_a_near_neighbour_and_relative_mahalanobis():
    features, classes = three_heaps()
    points = 3 * normal(7, 5, key="points")
    found = Nearness().fit(features, classes)(points)
    unit = nn.functional.normalize(features, dim=1)
    gaps = torch.cdist(nn.functional.normalize(points, dim=1), unit).sort(dim=1).values
    torch.testing.assert_close(found[:, 0].float(), gaps[:, 11], atol=1e-2, rtol=0)  # kept in half
    means = torch.stack([features[classes == k].mean(0) for k in range(3)])

    def squared(gap, values):
        precision = torch.linalg.inv(values.T.double() @ values.double() / len(values))
        return torch.einsum("...d,de,...e->...", gap.double(), precision, gap.double())

    to_class = squared(points[:, None] - means, features - means[classes]).amin(1)
    to_all = squared(points - features.mean(0), features - features.mean(0))
    torch.testing.assert_close(found[:, 1], to_class - to_all, rtol=0.02, atol=0.5)


def test_nearness_tells_strangers_and_comes_back_from_its_state():
    features, classes = three_heaps()
    nearness = Nearness().fit(features[::2], classes[::2])
    known, strange = nearness(features[1::2]), nearness(8 * normal(200, 5, key="strange"))
    for column in range(2):
        assert separation(known[:, column], strange[:, column]).auroc > 0.8
    again = Nearness()
    again.load_state_dict(nearness.state_dict())
    assert torch.equal(again(features), nearness(features))


def test_a_gauge_makes_every_view_as_wide_as_real_images():
    logits, nearness, layers = 5 * normal(300, 4), normal(300, 2, key="near"), normal(300, 6) * 9
    measured = measures(logits, nearness * torch.tensor([0.01, 50]), layers)
    gauge = Gauge.of(measured)
    views = gauge(measured)
    torch.testing.assert_close(views.std(0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(views.mean(0), torch.zeros(3, dtype=torch.float64))
    assert bool((gauge(measured + 1) > views).all())
    silent = torch.zeros_like(measured)  # nothing varies: no division by 0
    assert bool(torch.isfinite(Gauge.of(silent)(silent)).all())


# --- synthetic sets and shortcuts -----------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", synthetic_names())
def test_a_synthetic_set_has_the_known_images_form(name, spec):
    images = torch.randint(256, (12, *spec.shape), dtype=torch.uint8, generator=stream(name))
    known = image_set(images.clone())
    made = make_synthetic(name, known, seed=3)
    assert made.images.shape == images.shape and made.images.dtype == torch.uint8
    assert made.name == f"synthetic:{name}" and made.labels.eq(-1).all()
    assert torch.equal(known.images, images)
    assert torch.equal(make_synthetic(name, known, seed=3).images, made.images)
    assert not torch.equal(made.images, images)
    # a negative is what it is; all others are drawn anew under another seed
    assert torch.equal(make_synthetic(name, known, 4).images, made.images) == (name == "inverted")


def test_shuffled_patches_are_the_same_patches():
    images = torch.randint(256, (5, 3, 33, 47), dtype=torch.uint8)
    made = make_synthetic("patch-shuffled", image_set(images)).images
    assert torch.equal(made.flatten(2).sort().values, images.flatten(2).sort().values)


def test_scrambled_phase_keeps_mean_and_spectrum():
    images = torch.randint(64, 192, (5, 1, 32, 32), dtype=torch.uint8)
    made = make_synthetic("phase-scrambled", image_set(images)).images
    spectra = [torch.fft.fft2(part.double()).abs() for part in (images, made)]
    assert torch.allclose(*(s[..., 0, 0] for s in spectra), rtol=0.01)
    assert float((spectra[0] - spectra[1]).abs().mean() / spectra[0].mean()) < 0.1


def test_an_unknown_synthetic_set_is_one_sentence():
    with pytest.raises(PreimageError, match=r"a synthetic set out of uniform"):
        make_synthetic("nonsense", bands(4))


def test_shortcuts_are_found_and_content_is_none():
    random = torch.randint(30, 220, (100, 3, 16, 16), dtype=torch.uint8)
    other = torch.randint(30, 220, (100, 3, 16, 16), dtype=torch.uint8)
    assert find_shortcuts(image_set(random), image_set(other)) == []
    framed = other.clone()
    framed[:, :, [0, -1]] = 30
    framed[:, :, :, [0, -1]] = 30
    found = {s.statistic: s.auroc for s in find_shortcuts(image_set(random), image_set(framed))}
    assert found["constant border"] == 1.0
    grey = other[:, :1].expand(-1, 3, -1, -1)
    assert "saturation" in [s.statistic for s in find_shortcuts(image_set(random), image_set(grey))]


def test_only_what_is_taken_for_known_is_shown_as_a_mistake():
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), ImageSpec(1, 8, 8))
    images = image_set(torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8))
    unknown = Unknown("some", images, images.spec, real=True)
    scores = torch.arange(50.0).flip(0)
    for threshold, shown, text in (
        (2.0, 3, "3 of 50 taken for known"),
        (-1.0, 0, "none of 50 taken for known"),
        (100.0, STRIP, "50 of 50 taken for known"),
        (None, STRIP, ""),
    ):
        found = mistakes(unknown, scores, threshold, classifier, 3)
        assert (len(found.pictures), found.text) == (shown, text)
        captions = [picture.text for picture in found.pictures]
        assert all(one.endswith(f", score {k}") for k, one in enumerate(captions))


def test_the_blur_of_enlarging_is_a_shortcut_and_the_same_path_removes_it():
    sharp = image_set(torch.randint(256, (100, 1, 16, 16), dtype=torch.uint8))
    small = image_set(torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8))
    enlarged = small.convert(sharp.spec)
    blurred = same_path(sharp, small.spec)
    found = [[s.statistic for s in find_shortcuts(one, enlarged)] for one in (sharp, blurred)]
    assert "fine detail" in found[0] and "fine detail" not in found[1]
    assert same_path(sharp, sharp.spec) is sharp
    assert same_path(sharp, ImageSpec(3, 64, 64)) is sharp


class Watcher:
    """A judge that remembers what it is asked about, and says nothing of it."""

    def __init__(self):
        self.asked, self.thresholds, self.thresholds_98 = [], {}, {}

    def __call__(self, images):
        self.asked.append(images)
        return {}


def test_unknown_images_are_blurred_as_known_ones_that_were_enlarged():
    sharp = image_set(torch.randint(256, (100, 1, 16, 16), dtype=torch.uint8))
    small = image_set(torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8))
    unknown = Unknown("sharp", sharp, sharp.spec, real=True)
    for stored, told in ((small.spec, False), (None, True)):
        judge = Watcher()
        known = replace(small.convert(sharp.spec), stored=stored)
        evaluation = Evaluation(known, [judge], 0.99)
        assert ("fine detail" in [s.statistic for s in evaluation.shortcuts(unknown)]) is told
        evaluation.measure(unknown)
        assert judge.asked[0] is known
        assert torch.equal(judge.asked[1].images, sharp.images) is told


def test_softened_images_lose_detail_and_nothing_else():
    images = torch.randint(256, (40, 3, 33, 47), dtype=torch.uint8, generator=stream("soft"))
    known = image_set(images.clone())
    soft = softened(known, stream("softened"))
    assert soft.images.shape == images.shape and soft.images.dtype == torch.uint8
    assert torch.equal(soft.labels, known.labels) and torch.equal(known.images, images)
    noise = images.float().diff(dim=3).abs().mean((1, 2, 3))
    left = soft.images.float().diff(dim=3).abs().mean((1, 2, 3))
    assert bool((left < noise).all()) and float(left.min()) < 0.6 * float(noise.mean())
    means = soft.images.float().mean((1, 2, 3)) - images.float().mean((1, 2, 3))
    assert float(means.abs().max()) < 2
    assert torch.equal(softened(known, stream("softened")).images, soft.images)
    tiny_ones = image_set(images[:, :, :8, :8])  # nothing smaller is an image
    assert torch.equal(softened(tiny_ones, stream("softened")).images, tiny_ones.images)


def test_a_sketch_of_many_features_keeps_distances():
    values = normal(20, 3 * WIDEST, key="many")
    small = sketch(values)
    assert small.shape == (20, WIDEST) and torch.equal(
        sketch(values[:, :WIDEST]), values[:, :WIDEST]
    )
    ratio = torch.pdist(small) / torch.pdist(values)
    assert float(ratio.min()) > 0.95 and float(ratio.max()) < 1.05
    assert torch.equal(small[3:5], sketch(values[3:5]))


def test_the_guard_goes_back_to_where_it_began():
    guard = AccuracyGuard(margin=0.01, patience=1)
    guard.expect(0.99, {"weights": "first"})
    assert guard.judge(0.7, {"weights": "spoiled"}) == "back"
    assert guard.good == {"weights": "first"}
