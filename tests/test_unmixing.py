"""Taking training images out of the first layer's weights, on mixtures that are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import preimage.leak.reconstruction
import tiny
from preimage.classifier import Classifier, frozen
from preimage.config import ReconstructConfig
from preimage.errors import PreimageError
from preimage.leak import directions as directions_module
from preimage.leak import unmixing
from preimage.leak.components import Edges, separate
from preimage.leak.contrast import KnownContrast
from preimage.leak.directions import directions
from preimage.leak.first_layer import FirstLayer, first_layer
from preimage.leak.mixture import Unmixed
from preimage.leak.reconstruction import _spread, reconstruct
from preimage.leak.unmixing import unmix
from preimage.runtime import stream
from preimage.types import ImageSpec
from preimage.zoo.architectures import build

SPEC = ImageSpec(1, 14, 14)
COUNT, UNITS = 12, 120


def pictures(count=COUNT, key="pictures"):
    """Some light rectangles each, on a dark ground; (count, 1, 14, 14)."""
    random = stream(key)
    images = torch.zeros(count, *SPEC.shape)
    for image in images:
        for _ in range(3):
            top, left, height, width = torch.randint(1, 9, (4,), generator=random).tolist()
            image[0, top : top + height, left : left + width] = torch.rand(1, generator=random)
    return images


def mixture(images, noise=1e-4):
    """Weights and bias that are a sum of multiples of images and ones, as training makes them."""
    random = stream("coefficients")
    coefficients = torch.randn(UNITS, len(images), generator=random)
    rows = torch.cat([images.flatten(1), torch.ones(len(images), 1)], dim=1)
    first = noise * torch.randn(UNITS, rows.shape[1], generator=random)
    return (coefficients @ rows + first).double()


def layer(weights, scale=1.0, shift=0.0):
    ones = torch.ones(weights.shape[1] - 1).double()
    return FirstLayer(weights, scale * ones, shift * ones)


def found_again(images, found):
    """How many of the images have one of the found within a tenth of their norm."""
    distances = torch.cdist(images.flatten(1), found.flatten(1)).amin(1)
    return int((distances < 0.1 * images.flatten(1).norm(dim=1)).sum())


def test_as_many_directions_stand_out_as_there_were_images():
    weights = mixture(pictures())
    found = directions(weights)
    assert len(found) == COUNT
    rows = F.pad(pictures().flatten(1), (0, 1), value=1.0).double()
    assert float((rows - rows @ found.T @ found).norm() / rows.norm()) < 0.01


def test_noise_has_no_directions():
    weights = 0.01 * torch.randn(UNITS, 197, generator=stream("noise")).double()
    assert len(directions(weights)) <= 1
    assert len(unmix(layer(weights), SPEC).images) == 0


@pytest.mark.parametrize("size", [(UNITS, 197), (5, 3)])
def test_a_layer_that_is_all_zeros_has_no_directions(size):
    assert len(directions(torch.zeros(size).double())) == 0


def test_directions_stand_out_where_the_first_weights_have_worn_away():
    random = stream("worn")
    worn = mixture(pictures(), noise=0.0)
    rounding = torch.randn(UNITS, 197, generator=random).double()
    # as weight decay leaves it: each unit's first weights at a size of their own, over many decades
    sizes = torch.logspace(-6, -12, UNITS).double()
    weights = worn + sizes[:, None] * rounding
    found = directions(weights)
    assert len(found) == COUNT
    rows = F.pad(pictures().flatten(1), (0, 1), value=1.0).double()
    assert float((rows - rows @ found.T @ found).norm() / rows.norm()) < 0.01


def test_directions_stand_out_of_the_rounding_of_bf16(monkeypatch):
    """Each weight is rounded by a share of it: where training wrote much there is most noise."""
    random = stream("rounding")
    place = torch.arange(196) % COUNT  # each image is lit on pixels of its own, some hardly
    lit = torch.nn.functional.one_hot(place, COUNT).T * torch.logspace(0, -3, COUNT)[:, None]
    written = torch.randn(UNITS, COUNT, generator=random) @ lit
    rounded = (written * (1 + 0.003 * torch.randn(written.shape, generator=random))).double()
    found = directions(rounded)
    assert len(found) == COUNT
    rows = torch.nn.functional.normalize(lit, dim=1).double()
    assert float((rows - rows @ found.T @ found).norm() / rows.norm()) < 0.1
    monkeypatch.setattr(directions_module, "_EVEN_STEP", float("inf"))
    assert len(directions(rounded)) > COUNT


def test_more_images_than_can_be_told_apart_are_not_tried():
    assert directions(mixture(pictures(118))) is None


def test_a_mixture_comes_apart():
    images = pictures()
    steps = []
    whole = unmix(layer(mixture(images)), SPEC, on_step=lambda *at: steps.append(at))
    assert len(whole.images) == COUNT >= whole.possible >= 10
    found = whole.images[: whole.possible]
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert found_again(images, found) >= 10
    assert found_again(pictures(key="others"), found) == 0
    assert steps[0] == (10, 2400) and steps[-1] == (2400, 2400) and steps == sorted(steps)


def test_what_is_certain_needs_little_sharpening(monkeypatch):
    steps = []
    monkeypatch.setattr(unmixing, "_NEARLY_ALL", 0.0)
    unmix(layer(mixture(pictures())), SPEC, on_step=lambda *at: steps.append(at))
    assert steps[0] == (10, 2400) and steps[-1] == (600, 600)
    unmix(layer(mixture(pictures())), SPEC, steps=300, on_step=lambda *at: steps.append(at))
    assert steps[-1] == (700, 700)


def test_what_does_not_stay_as_it_is_was_no_image_yet(monkeypatch):
    steps = []
    monkeypatch.setattr(KnownContrast, "unmoved", lambda self, start, end: 0.8)
    monkeypatch.setattr(unmixing, "separate", all_certain)
    again = unmix(layer(mixture(pictures())), SPEC, on_step=lambda *at: steps.append(at))
    assert (600, 600) in steps and steps[-1] == (2400, 2400)
    monkeypatch.setattr(KnownContrast, "unmoved", lambda self, start, end: 0.9)
    short = unmix(layer(mixture(pictures())), SPEC, on_step=lambda *at: steps.append(at))
    assert steps[-1] == (600, 600) and not torch.equal(short.images, again.images)


def all_certain(*arguments):
    found = separate(*arguments)
    return found._replace(certain=torch.ones_like(found.certain))


def test_an_image_of_other_contrast_is_unmoved_and_another_image_is_not():
    plain = layer(mixture(pictures()))
    basis = F.pad(pictures().flatten(1), (0, 1), value=1.0).double()
    space = KnownContrast(plain, basis, SPEC, torch.device("cpu"))
    start = space.start(torch.eye(COUNT))
    half = space.start(torch.eye(COUNT) / 2 + 1 / (2 * COUNT))
    assert space.unmoved(start, start) == 1.0 and space.unmoved(start, start.roll(1, 0)) < 0.2
    assert space.unmoved(start, half) > 0.8


def test_a_scale_of_the_inputs_is_taken_back():
    images = pictures()
    moved = layer(mixture(images * 2 - 0.5), 2.0, -0.5)
    wrong = layer(mixture(images), 2.0, -0.5)
    assert found_again(images, unmix(moved, SPEC).images) >= 9
    assert found_again(images, unmix(wrong, SPEC).images) < 9


def test_edges_are_second_differences_of_every_direction():
    spec = ImageSpec(1, 3, 3)
    image = torch.tensor([[1.0, 3.0, 6.0], [2.0, 2.0, 2.0], [0.0, 5.0, 1.0]]).reshape(1, 9)
    across = torch.tensor([1.0, 0.0, -9.0])
    down = torch.tensor([-3.0, 4.0, 3.0])
    corner = torch.tensor([-2.0, -3.0, 5.0, -4.0])
    both = torch.tensor([-8.0])
    expected = torch.cat(
        [part / part.square().mean().sqrt() for part in (across, down, corner, both)]
    )
    assert torch.allclose(Edges(image, spec)(image)[0], expected)
    assert torch.allclose(Edges(image, spec)(2 * image)[0], 2 * expected)


def test_edges_of_colours_are_those_of_brightness_and_opponents():
    spec = ImageSpec(3, 3, 3)
    mixture = torch.rand(4, 27, generator=stream("colours"))
    edges = Edges(mixture, spec)
    grey = edges(mixture[:1, :9].repeat(1, 3))[0]
    sizes = [3] * 6 + [4] * 3 + [1] * 3  # three channels of each kind
    for number, part in enumerate(grey.split(sizes)):
        assert (float(part.abs().max()) < 1e-5) == (number % 3 > 0)


def test_what_two_separations_agree_on_is_an_image():
    images = pictures().flatten(1).double()
    turned = torch.linalg.qr(torch.randn(COUNT, COUNT, generator=stream("turn")).double())[0]
    edges = Edges(images, SPEC)
    found = separate(turned @ images, edges, 0, torch.device("cpu"))
    assert int(found.certain.sum()) >= 6  # the rest are rectangles with few edges, or at odds
    shares = (found.combinations @ turned).abs()
    best = shares.amax(1) / shares.norm(dim=1)
    assert float(best[found.certain].min()) > 0.8


def test_a_spike_is_not_certain():
    spikes = torch.eye(196)[50:150:3].double()  # as many images as pixels can be turned into
    turned = torch.linalg.qr(torch.randn(34, 34, generator=stream("turn")).double())[0]
    found = separate(turned @ spikes, Edges(spikes, SPEC), 0, torch.device("cpu"))
    shares = (found.combinations @ turned).abs()
    best = shares.amax(1) / shares.norm(dim=1)
    assert float(best.median()) > 0.9 and not found.certain.any()


def test_images_without_edges_are_not_tried():
    spec = ImageSpec(1, 2, 98)
    assert len(unmix(layer(mixture(pictures())), spec, steps=3).images) == 0


def test_the_first_layer_is_found_behind_a_normalisation():
    torch.manual_seed(0)
    network = build("mlp", SPEC, 3, 16)
    target = Classifier(network.eval(), SPEC, mean=[0.2], std=[0.5])
    with frozen(target):
        found = first_layer(target)
    assert found is not None
    linear = next(module for module in network.modules() if isinstance(module, nn.Linear))
    assert torch.equal(found.weights[:, :-1], linear.weight.detach().double())
    assert torch.equal(found.weights[:, -1], linear.bias.detach().double())
    assert torch.allclose(found.scale, torch.tensor(2.0).double())
    assert torch.allclose(found.shift, torch.tensor(-0.4).double())


@pytest.mark.parametrize("arch", ["cnn", "vit"])
def test_a_layer_behind_others_is_not_taken_for_the_first(arch):
    torch.manual_seed(0)
    target = Classifier(build(arch, SPEC, 3).eval(), SPEC)
    with frozen(target):
        assert first_layer(target) is None


def test_a_layer_that_is_called_by_keyword_is_the_first_as_well():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(196, 8), nn.Linear(8, 3)

        def forward(self, images):
            return self.two(self.one(input=images.flatten(1)).relu())

    torch.manual_seed(0)
    named = Named().eval()
    placed = nn.Sequential(nn.Flatten(), named.one, nn.ReLU(), named.two)
    images = torch.rand(5, *SPEC.shape, generator=stream("named"))
    found = []
    for network in (named, placed):
        target = Classifier(network, SPEC)
        with frozen(target):
            layer = first_layer(target)
            found.append((layer.weights, layer.gradients(images)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other) and bool(one.any())


def planted():
    """A classifier whose first layer is a mixture of pictures."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(196, UNITS), nn.ReLU(), nn.Linear(UNITS, 3))
    weights = mixture(pictures()).float()
    with torch.no_grad():
        network[1].weight.copy_(weights[:, :-1])
        network[1].bias.copy_(weights[:, -1])
    return Classifier(network.eval(), SPEC)


def test_a_reconstruction_begins_with_what_the_weights_give():
    config = ReconstructConfig(images=COUNT + 6, steps=20)
    target = planted()
    seen = []
    found = reconstruct(target, config, on_step=lambda p: seen.append(p.what))
    assert 10 <= found.unmixed <= COUNT and len(found.images) == COUNT + 6
    assert found_again(pictures(), found.images[: found.unmixed]) >= 10
    with frozen(target), torch.no_grad():
        answers = target(found.images[: found.unmixed]).logits.argmax(1)
    assert torch.equal(found.labels[: found.unmixed], answers)
    assert seen[0] == "unmixing" and seen[-1] == "steps"
    without = reconstruct(target, replace(config, start="noise"))
    assert without.unmixed == 0 and found_again(pictures(), without.images) == 0


@pytest.mark.parametrize(("certain", "count"), [(0, 3), (2, 3), (4, 4), (6, 6), (12, 6)])
def test_half_are_looked_for_where_more_come_out_and_few_are_certain(monkeypatch, certain, count):
    give(monkeypatch, certain)
    found = reconstruct(planted(), ReconstructConfig(images=6, steps=5))
    assert found.unmixed == count and found.images.shape == (6, *SPEC.shape)
    assert found_again(pictures(), found.images) == count


def give(monkeypatch, certain=0, possible=COUNT):
    """Let the weights give all pictures, so many of them certain or possible."""

    def all_of_them(*_, **__):
        return Unmixed(pictures(), possible, certain)

    monkeypatch.setattr(preimage.leak.reconstruction, "unmix", all_of_them)


def test_what_is_certain_comes_out_of_the_weights():
    found = reconstruct(planted(), ReconstructConfig(images=6, steps=5))
    assert found.unmixed == 6 and found_again(pictures(), found.images) == 6


def test_mixtures_have_no_part_in_the_search(monkeypatch):
    give(monkeypatch)
    config = ReconstructConfig(images=6, steps=130)
    target, memory = planted(), tiny.Memory()
    found = reconstruct(target, config)
    alone = reconstruct(target, replace(config, images=3, start="noise"))
    assert torch.equal(found.images[3:], alone.images)
    assert torch.equal(found.labels[3:], alone.labels)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(target, config, checkpoint=memory, on_step=tiny.killer(what="steps", step=125))
    again = reconstruct(target, config, checkpoint=memory)
    assert torch.equal(found.images, again.images) and torch.equal(found.labels, again.labels)


def test_no_search_where_the_weights_give_all_that_is_asked_for():
    count = reconstruct(planted(), ReconstructConfig(images=COUNT + 1, steps=1)).unmixed
    seen = []
    config = ReconstructConfig(images=count)
    found = reconstruct(planted(), config, on_step=lambda p: seen.append(p.what))
    assert found.unmixed == count and found.images.shape == (count, *SPEC.shape)
    assert set(seen) == {"unmixing"}


@pytest.mark.parametrize("possible", [9, 11])
def test_directions_that_are_left_stand_in_for_a_few_images(monkeypatch, possible):
    give(monkeypatch, possible=possible)
    found = reconstruct(planted(), ReconstructConfig(images=COUNT, steps=2))
    assert found.unmixed == (COUNT if possible == 11 else possible)
    assert len(found.images) == COUNT and found_again(pictures(), found.images) == found.unmixed


@pytest.mark.parametrize("number", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_unmixed_as_float32(number):
    """Rounding the inputs of the first layer hides that it is on the pixels."""
    target, same = (Classifier(planted().network.to(number), SPEC) for _ in range(2))
    same.network.float()
    before = {name: value.clone() for name, value in target.network.state_dict().items()}
    config = ReconstructConfig(images=COUNT + 2, steps=3)
    found, expected = (
        reconstruct(target, config),
        reconstruct(Classifier(same.network, SPEC), config),
    )
    assert found.unmixed == expected.unmixed > 0
    assert torch.equal(found.images, expected.images)
    for name, value in target.network.state_dict().items():
        assert value.dtype == number and torch.equal(value, before[name])
    assert target(torch.rand(2, *SPEC.shape)).logits.isfinite().all()


def test_weights_that_cannot_be_decomposed_are_one_sentence(monkeypatch):
    def fails(*_, **__):
        raise torch.linalg.LinAlgError("the algorithm failed to converge\nat length")

    monkeypatch.setattr(preimage.leak.reconstruction, "unmix", fails)
    with pytest.raises(PreimageError, match="failed to converge; look for all images with --start"):
        reconstruct(planted(), ReconstructConfig(images=6, steps=5))


def test_a_search_goes_on_with_the_images_that_came_from_the_weights():
    config = ReconstructConfig(images=COUNT + 3, steps=130)
    memory, target = tiny.Memory(), planted()

    whole = reconstruct(target, config)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(target, config, checkpoint=memory, on_step=tiny.killer(what="steps", step=125))
    seen = []
    again = reconstruct(target, config, checkpoint=memory, on_step=lambda p: seen.append(p.what))
    assert set(seen) == {"steps"} and again.unmixed == whole.unmixed
    assert torch.equal(whole.images, again.images)
    del memory.state["mixed"]  # as a state of before is
    assert torch.equal(reconstruct(target, config, checkpoint=memory).images, whole.images)


def test_a_bias_that_learnt_nothing_tells_no_scale():
    weights = mixture(pictures())
    weights[:, -1] = 0
    assert len(unmix(layer(weights), SPEC, steps=3).images) == 0


@pytest.mark.parametrize(("count", "classes"), [(7, 3), (5, 5), (5, 43), (200, 1000)])
def test_classes_to_look_for_are_spread_over_all(count, classes):
    wanted = _spread(count, classes)
    assert len(wanted) == count and wanted[0] == 0 and wanted[-1] == classes - 1
    assert torch.equal(wanted, wanted.sort().values)
    assert int(wanted.bincount().max()) == -(-count // classes)
