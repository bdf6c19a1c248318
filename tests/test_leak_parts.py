"""The parts of training-data reconstruction, each on its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from preimage.errors import PreimageError
from preimage.leak.balance import Balance
from preimage.leak.carriers import carrier_names, make_carrier
from preimage.leak.matching import (
    UNSEEN,
    WINDOW,
    assign,
    feature_similarities,
    matched,
    similarities,
    ssim,
)
from preimage.leak.terms import (
    adversarial_step,
    gradient_norm,
    margins,
    pixel_range,
    sign_noise,
    smooth_gates,
    stationarity,
)
from preimage.leak.turns import Turns
from preimage.leak.verdict import judge
from preimage.limits import SAYS
from preimage.runtime import stream
from preimage.types import ImageSpec
from preimage.zoo.architectures import build
from pretend import GPU, PretendedGPU


def uniform(*size, key="uniform"):
    return torch.rand(*size, generator=stream(key), dtype=torch.float64)


def network(outputs=3, activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 5), activation(), nn.Linear(5, outputs)
    ).double()


LABELS = torch.tensor([0, 2, 1, 2])


# --- terms ----------------------------------------------------------------------------------


def test_terms_have_the_gradients_that_they_claim():
    net = network()
    weights = list(net.parameters())
    multipliers = uniform(4, key="multipliers").requires_grad_()
    images = uniform(4, 3, 2, 2).requires_grad_()
    checks = [
        lambda x: pixel_range(3 * x - 1),
        lambda x: gradient_norm(net(x), LABELS, weights),
        lambda x: margins(net(x), LABELS).sum(),
    ]
    for check in checks:
        assert torch.autograd.gradcheck(check, images)
    both = (images, multipliers)
    assert torch.autograd.gradcheck(lambda x, m: stationarity(net(x), LABELS, m, weights), both)


def test_stationarity_is_zero_where_the_weights_are_a_sum_of_margins_gradients():
    images = uniform(4, 6)
    multipliers = torch.tensor([0.5, 1.0, 2.0, 0.1]).double()
    labels = torch.tensor([0, 1, 1, 0])
    linear = nn.Linear(6, 2, bias=False).double()
    signs = torch.where(labels == 0, 1.0, -1.0).double()
    row = (multipliers * signs) @ images
    with torch.no_grad():
        linear.weight.copy_(torch.stack([row, -row]))
    weights = [linear.weight]
    assert stationarity(linear(images), labels, multipliers, weights).item() < 1e-12
    assert stationarity(linear(images), labels, 2 * multipliers, weights).item() < 1e-12
    assert stationarity(linear(images), 1 - labels, multipliers, weights).item() > 1.9
    others = uniform(4, 6, key="others")
    assert stationarity(linear(others), labels, multipliers, weights).item() > 0.05


def test_a_large_layer_does_not_hide_what_another_has_learnt():
    images = uniform(4, 6)
    labels, multipliers = torch.tensor([0, 1, 1, 0]), torch.ones(4).double()
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    first, last = weights = list(net.parameters())

    def value():
        return stationarity(net(images), labels, multipliers, weights).item()

    before = value()
    total = (multipliers * margins(net(images), labels)).sum()
    (gradient,) = torch.autograd.grad(total, [first])
    scale = 1000 * last.detach().norm() / first.detach().norm()
    with torch.no_grad():
        last.mul_(scale)  # turns no gradient of the first layer
    assert value() == pytest.approx(before)
    with torch.no_grad():
        first.copy_(gradient)
    assert value() < before - 0.1


def test_margins_are_to_the_largest_other_logit():
    logits = torch.tensor([[1.0, 5, 2], [0, -1, -3]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [3.0, -3.0]


def test_gradient_norm_is_that_of_the_mean_loss():
    net, images = network(), uniform(4, 3, 2, 2)
    value = gradient_norm(net(images), LABELS, list(net.parameters()))
    nn.functional.cross_entropy(net(images), LABELS).backward()
    expected = sum(p.grad.square().sum() for p in net.parameters())
    assert value.item() == pytest.approx(expected.item())


def test_perturbations_stay_in_range_and_move_every_pixel_by_epsilon():
    images = uniform(4, 3, 2, 2) * 0.8 + 0.1
    noisy = sign_noise(images, 0.05, stream("noise"))
    attacked = adversarial_step(network(), images, LABELS, 0.05)
    for moved in (noisy, attacked):
        assert torch.allclose((moved - images).abs(), torch.full_like(images, 0.05))
    ends = sign_noise(torch.ones(4, 3, 2, 2), 0.5, stream("noise"))
    assert float(ends.max()) == 1.0
    start = torch.ones(4, 3, 2, 2, requires_grad=True)
    sign_noise(start, 0.5, stream("noise")).sum().backward()
    assert torch.equal(start.grad, torch.ones_like(start))


def test_an_adversarial_step_raises_the_loss():
    net, images = network(), uniform(4, 3, 2, 2)
    loss = nn.functional.cross_entropy
    moved = adversarial_step(net, images, LABELS, 0.01)
    assert float(loss(net(moved), LABELS)) > float(loss(net(images), LABELS))


def test_pixel_range_is_zero_inside_and_quadratic_outside():
    assert float(pixel_range(torch.tensor([0.0, 0.4, 1.0]))) == 0
    assert float(pixel_range(torch.tensor([-0.5, 2.0]))) == pytest.approx((0.25 + 1) / 2)


ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.2, inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hardtanh": lambda: nn.Hardtanh(-0.3, 0.2, inplace=True),
}
gated = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)


def convolution(activation):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), activation(), nn.Flatten(), nn.Linear(27, 3)
    return nn.Sequential(*layers).double()


@gated
def test_a_smooth_gate_has_the_same_values_and_second_derivatives(activation):
    net = convolution(activation)
    images = uniform(4, 1, 5, 5).requires_grad_()
    before = net(images)

    def curvature():
        (first,) = torch.autograd.grad(net(images)[:, 0].sum(), images, create_graph=True)
        return torch.autograd.grad(first.square().sum(), images, allow_unused=True)[0]

    assert curvature() is None or not curvature().any()
    with smooth_gates(net, 10.0):
        assert torch.allclose(net(images), before)
        assert curvature().any()
    assert torch.equal(net(images), before)
    assert not net[1]._forward_hooks and net[1].inplace


def test_a_gate_that_is_called_by_keyword_is_smoothed():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.ReLU()

        def forward(self, inputs):
            return self.gate(input=inputs)

    inputs = torch.tensor([0.5]).requires_grad_()
    net = Named()
    with smooth_gates(net, 10.0):
        (first,) = torch.autograd.grad(net(inputs).sum(), inputs, create_graph=True)
        assert torch.autograd.grad(first, inputs)[0].any()


@gated
def test_a_smooth_gate_is_the_step_away_from_it(activation):
    inputs = torch.tensor([-9.0, -0.8, -0.1, 0.1, 0.8, 5.0, 9.0]).double().requires_grad_()
    plain = activation()
    (expected,) = torch.autograd.grad(plain(inputs.clone()).sum(), inputs)
    with smooth_gates(plain, 200.0):
        (found,) = torch.autograd.grad(plain(inputs).sum(), inputs)
    assert torch.allclose(found, expected, atol=1e-6)


@gated
def test_stationarity_feels_an_image_through_the_gates(activation):
    """Of the first layer's weights alone: the gates are all that the image changes in the rest."""
    net = convolution(activation)
    images, multipliers = uniform(4, 1, 5, 5).requires_grad_(), torch.ones(4).double()

    def value(images):
        return stationarity(net(images), LABELS, multipliers, [net[0].weight])

    def gradient():
        return torch.autograd.grad(value(images), images)[0]

    without = gradient()
    with smooth_gates(net, 10.0):
        assert torch.autograd.gradcheck(value, images)
        whole = gradient()
    assert float((whole - without).norm() / whole.norm()) > 0.1


@pytest.mark.parametrize("arch", ["cnn", "cnn-deep", "resnet", "resnet-deep", "mlp"])
def test_every_gate_of_a_reference_network_is_smoothed(arch):
    """With gates that hardly rise no image is treated otherwise than another."""
    net = build(arch, ImageSpec(1, 8, 8), 3, 4).double().eval()
    for module in net.modules():  # which of the pixels is the largest also hangs on the image
        for name, part in module.named_children():
            if isinstance(part, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))

    def treated(image):
        return torch.autograd.grad(net(image.requires_grad_())[:, 0].sum(), image)[0]

    one, other = uniform(1, 1, 8, 8), uniform(1, 1, 8, 8, key="other")
    assert not torch.allclose(treated(one), treated(other), rtol=1e-3, atol=0)
    with smooth_gates(net, 1e-6):
        assert torch.allclose(treated(one), treated(other), rtol=1e-3, atol=0)


# --- balance and carriers -------------------------------------------------------------------


def test_a_term_has_the_say_of_its_priority_whatever_its_size():
    images = uniform(2, 3).requires_grad_()
    values = {"small": (1e-2 * images).sum(), "large": (1e2 * images.square()).sum()}
    balance = Balance({"small": 3.0, "large": 1.0, "off": 0.0})
    balance.look(values, images)
    pulls = {
        name: float(torch.autograd.grad(weight * values[name], images, retain_graph=True)[0].norm())
        for name, weight in balance.weights().items()
    }
    assert pulls == pytest.approx({"small": 3.0, "large": 1.0})
    again = Balance({"small": 3.0, "large": 1.0})
    again.load_state_dict(balance.state_dict())
    assert again.weights() == balance.weights()


def test_a_term_without_gradient_does_not_blow_up():
    images = uniform(2, 3).requires_grad_()
    values = {"flat": images.sum() * 0, "real": images.sum()}
    balance = Balance({"flat": 1.0, "real": 1.0})
    balance.look(values, images)
    assert torch.isfinite(balance.total(values, {"flat": 1, "real": 1}))


def test_a_term_counts_as_often_whether_it_waits_for_its_turn_or_not():
    turns = Turns(SAYS)
    steps = [turns.due(step) for step in range(2 * turns.round)]
    counted = {name: sum(due.get(name, 0) for due in steps) for name in SAYS}
    assert set(counted.values()) == {2 * turns.round} and list(turns.every()) == list(SAYS)
    costly = [{"kl_noise", "kl_adversarial", "gradient"} & set(due) for due in steps]
    assert all(len(names) == 1 for names in costly) and all("stationarity" in due for due in steps)
    alone = Turns(["ce", "ce_noise"])
    assert alone.due(0) == alone.due(1) == {"ce": 1, "ce_noise": 1}
    assert Turns(["ce", "pixels"]).due(5) == {"ce": 1, "pixels": 1}


def test_a_term_weighs_as_many_times_as_it_counts():
    images = uniform(2, 3).requires_grad_()
    values = {"one": images.sum(), "other": images.square().sum()}
    balance = Balance({"one": 1.0, "other": 1.0})
    balance.look(values, images)
    single = balance.total(values, {"one": 1, "other": 1})
    thrice = balance.total(values, {"one": 1, "other": 3})
    weighed = balance.weights()["other"] * values["other"]
    assert float(thrice - single) == pytest.approx(2 * float(weighed))


@pytest.mark.parametrize("spec", [ImageSpec(1, 28, 28), ImageSpec(3, 33, 47)], ids=str)
@pytest.mark.parametrize("name", carrier_names())
def test_a_carrier_gives_an_image_for_each_label_and_learns(name, spec):
    labels = torch.arange(6) % 3
    one, other = (make_carrier(name, spec, labels, 3, seed=4) for _ in range(2))
    images = one()
    assert images.shape == (6, *spec.shape)
    assert torch.equal(images, other())
    images.square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in one.parameters())


def test_an_unknown_carrier_is_one_sentence():
    with pytest.raises(PreimageError, match=r"a carrier out of direct, generator"):
        make_carrier("nonsense", ImageSpec(1, 8, 8), torch.zeros(2).long(), 2, 0)


# --- matching -------------------------------------------------------------------------------


def test_ssim_is_the_published_formula():
    one, other = uniform(2, 1, 9, 10, key="a").float(), uniform(2, 1, 9, 10, key="b").float()
    side = WINDOW // 2

    def windows(images):
        padded = nn.functional.pad(images, (side,) * 4, mode="reflect")
        return nn.functional.unfold(padded, WINDOW).double()  # (B, pixels of a window, places)

    x, y = windows(one), windows(other)
    means = x.mean(1), y.mean(1)
    covariance = (x * y).mean(1) - means[0] * means[1]
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    expected /= means[0] ** 2 + means[1] ** 2 + c1
    expected /= x.var(1, correction=0) + y.var(1, correction=0) + c2
    assert ssim(one, other).tolist() == pytest.approx(expected.mean(1).tolist(), abs=1e-4)


def test_an_image_is_most_similar_to_itself_and_candidates_find_it():
    images = uniform(30, 1, 16, 16).float()
    found = similarities(images[:5], images, candidates=4)
    assert torch.equal(found.argmax(1), torch.arange(5))
    assert torch.allclose(found.amax(1), torch.ones(5), atol=1e-4)
    assert int((found > -1).sum()) == 20
    everything = similarities(images[:5], images, candidates=30)
    assert torch.allclose(everything.amax(1), found.amax(1))


def test_assignment_is_one_to_one_within_classes_and_best():
    similarity = torch.tensor([[0.9, 0.8, 0.0], [0.85, 0.1, 0.0], [0.0, 0.0, 0.3]])
    pairs = assign(similarity, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
    assert sorted(pairs.tolist()) == [[0, 1], [1, 0], [2, 2]]
    assert assign(similarity, torch.tensor([2, 2, 2]), torch.tensor([0, 0, 1])).shape == (0, 2)


def test_similarities_do_not_depend_on_how_many_pairs_are_compared_at_once(monkeypatch):
    images, others = uniform(3, 1, 9, 9).float(), uniform(7, 1, 9, 9, key="others").float()
    at_once = similarities(images, others)
    monkeypatch.setattr("preimage.leak.matching._NUMBERS", 2 * 81)
    assert torch.allclose(similarities(images, others), at_once, atol=1e-6)
    monkeypatch.setattr("preimage.leak.matching._NUMBERS", 1)  # larger images than it allows
    assert torch.allclose(similarities(images, others), at_once, atol=1e-6)


def test_a_blank_image_is_as_near_to_one_group_as_to_the_other():
    """Its pixels correlate with nothing: which are compared must not follow from their places."""
    others = uniform(200, 1, 9, 9).float()
    found = similarities(torch.zeros(1, 1, 9, 9), others)[0] > UNSEEN
    assert int(found.sum()) == 32 and 8 <= int(found[:100].sum()) <= 24


def test_groups_are_compared_wherever_they_lie():
    with PretendedGPU():
        images = [uniform(4, 1, 9, 9, key=key).float().to(GPU) for key in ("one", "other")]
        assert torch.equal(similarities(*images), similarities(*(part.cpu() for part in images)))


def test_feature_similarity_is_a_cosine():
    assert float(feature_similarities(torch.ones(1, 3), 5 * torch.ones(1, 3))) == pytest.approx(1)


# --- the verdict ----------------------------------------------------------------------------


def chance(rows, columns, trial, alike):
    """Similarities of reconstructions that know nothing; `alike` makes all rows nearly the same."""
    shared = torch.randn(1, 2 * columns, generator=stream("shared", trial))
    own = torch.randn(rows, 2 * columns, generator=stream("own", trial))
    both = 0.1 + 0.08 * (shared * alike + own * (1 - alike))
    return both[:, :columns], both[:, columns:]


@pytest.mark.parametrize("alike", [0.0, 0.9], ids=["independent", "alike"])
def test_without_a_leak_the_verdict_hardly_ever_says_so(alike):
    answers = [judge(*chance(60, 50, trial, alike)).verdict for trial in range(40)]
    assert answers.count("leaks") <= 2


@pytest.mark.parametrize("alike", [0.0, 0.9], ids=["independent", "alike"])
def test_p_values_are_not_too_small_too_often(alike):
    values = [judge(*chance(30, 40, trial, alike)).p_value for trial in range(60)]
    assert sum(value <= 0.2 for value in values) <= 60 * 0.2 + 2 * (60 * 0.2 * 0.8) ** 0.5


def test_pairs_that_were_not_compared_are_no_difference():
    """All candidates of one reconstruction may lie in one group."""
    train, control = torch.full((30, 40), 0.3), torch.full((30, 40), 0.25)
    control[0] = UNSEEN
    verdict = judge(train, control)
    assert verdict.similarity_control == pytest.approx((29 * 0.25 + 0.3) / 30)
    assert verdict.difference < 0.05


def test_a_pair_that_was_not_compared_costs_no_other():
    similarity = torch.tensor([[0.9, 0.0], [0.3, UNSEEN]])
    found = matched(similarity, torch.zeros(2), torch.zeros(2))
    assert float(found.max()) == pytest.approx(0.9)


def test_a_p_value_of_exactly_a_tenth_leaves_it_open(monkeypatch):
    reached = torch.full((2,), 99, dtype=torch.float64)
    monkeypatch.setattr("preimage.leak.verdict.times_reached", lambda *_: reached)
    verdict = judge(*chance(30, 40, 0, 0.0))
    assert verdict.p_value == 0.1 and verdict.verdict == "can't tell"


def test_a_leak_of_some_images_is_found():
    train, control = chance(80, 60, 0, 0.0)
    train = train.clone()
    train[torch.arange(15), torch.arange(15)] = 0.8
    verdict = judge(train, control)
    assert verdict.verdict == "leaks" and verdict.p_value <= 0.01
    assert verdict.above_train > verdict.above_control
    assert verdict.effect > 0 and verdict.interval[0] <= verdict.difference <= verdict.interval[1]
    assert f"{verdict.above_train} of 80 reconstructions" in verdict.reason


def test_the_reason_names_what_decided():
    train, control = torch.full((40, 30), 0.3), torch.full((40, 30), 0.3)
    train[torch.arange(30), torch.arange(30)] = 0.41
    control[torch.arange(30), torch.arange(30)] = 0.39
    control[30:, 0] = 0.9  # so that the mean says nothing
    by_number = judge(train, control)
    assert by_number.verdict == "leaks" and by_number.difference < 0
    assert by_number.reason.startswith("More reconstructions resemble training images")
    control[30:, 0] = 0.3
    train[torch.arange(30), torch.arange(30)] = 0.399  # none recovered
    control[torch.arange(30), torch.arange(30)] = 0.31
    by_mean = judge(train, control)
    assert by_mean.verdict == "leaks"
    assert by_mean.reason.startswith("Training images are nearer than held-out ones")


def test_no_evidence_where_held_out_images_are_nearer():
    control, train = chance(80, 60, 0, 0.0)
    control = control + 0.2
    assert judge(train, control).verdict == "no evidence of a leak"


def test_too_few_images_are_no_ground_for_a_verdict():
    verdict = judge(torch.ones(50, 5), torch.zeros(50, 5))
    assert verdict.verdict == "can't tell" and "too few" in verdict.reason


@pytest.mark.parametrize(
    ("train", "control", "said"),
    [
        (torch.rand(5, 4), torch.rand(5, 3), "as many held-out images as training images"),
        (torch.rand(5, 4), torch.full((5, 4), float("nan")), "without NaN"),
        (torch.rand(0, 4), torch.rand(0, 4), "as many held-out"),
    ],
)
def test_bad_similarities_are_one_sentence(train, control, said):
    with pytest.raises(PreimageError, match=said):
        judge(train, control)
