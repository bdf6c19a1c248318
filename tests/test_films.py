"""Frames of one film are told by their order, and are never on both sides of a split."""

from __future__ import annotations

import pytest
import torch

from preimage.data import ImageSet
from preimage.data.films import films, one_of_each_film
from preimage.data.portion import few_images, hold_out
from preimage.errors import PreimageError
from preimage.leak.control import pair
from preimage.ood.threshold import threshold_at, threshold_of_films
from preimage.runtime import stream

LENGTHS = (1, 3, 9, 6, 4, 7, 5, 8)


def _filmed(
    classes: int = 4, shuffled: bool = False, key: int = 0
) -> tuple[ImageSet, torch.Tensor]:
    """Each class in films of LENGTHS frames, and the true film of every image."""
    random = torch.Generator().manual_seed(key)
    images, labels, of_film = [], [], []
    for film in range(classes * len(LENGTHS)):
        length = LENGTHS[film % len(LENGTHS)]
        scene = torch.rand(1, 3, 16, 16, generator=random)
        frames = scene + 0.05 * torch.randn(length, 3, 16, 16, generator=random)
        images.append(frames.clamp(0, 1))
        labels += [film // len(LENGTHS)] * length
        of_film += [film] * length
    rows = torch.arange(len(labels))
    if shuffled:
        rows = torch.randperm(len(labels), generator=random)
    pixels = (torch.cat(images) * 255).round().byte()[rows]
    names = tuple("abcdefgh"[:classes])
    both = torch.tensor(labels)[rows], torch.tensor(of_film)[rows]
    return ImageSet("filmed", "train", pixels, both[0], names), both[1]


def _film_of(images: ImageSet, truth: torch.Tensor) -> dict[bytes, int]:
    """Each image's film, by its bytes."""
    return {bytes(row.numpy()): int(of) for row, of in zip(images.images, truth, strict=True)}


def test_films_are_found_in_their_order():
    images, truth = _filmed()
    assert torch.equal(films(images), truth)


def test_images_in_random_order_are_no_films():
    images, _ = _filmed(shuffled=True)
    assert films(images) is None


@pytest.mark.parametrize("value", [0, 200])
def test_flat_images_and_single_ones_are_no_error(value):
    flat = torch.full((6, 1, 8, 8), value, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    # copies of one image are as near as frames can be
    assert films(ImageSet("flat", "train", flat, labels, ("a", "b"))).tolist() == [0] * 5 + [1]
    assert films(ImageSet("one", "train", flat[:1], labels[:1], ("a",))) is None


def test_few_images_and_those_left_out_share_no_film():
    images, truth = _filmed()
    film = _film_of(images, truth)
    parts = few_images(images, 16, seed=0)
    found = [film[bytes(row.numpy())] for part in parts for row in part.images]
    assert len(found) == len(set(found)) == 32
    with pytest.raises(PreimageError, match="found 8 when one frame of each film is taken"):
        few_images(images, 20, seed=0)


def test_whole_films_are_held_out():
    images, truth = _filmed()
    rest, out, of_film = hold_out(images, 30, seed=0)
    film = _film_of(images, truth)
    sides = [{film[bytes(row.numpy())] for row in part.images} for part in (rest, out)]
    assert not sides[0] & sides[1]
    assert len(rest) + len(out) == len(images)
    assert 30 <= len(out) < 30 + max(LENGTHS)
    assert set(rest.labels.tolist()) == set(range(4))
    assert of_film.tolist() == [film[bytes(row.numpy())] for row in out.images]


def test_no_class_is_held_out_whole():
    images, truth = _filmed()
    single = images.subset(((images.labels != 3) | (truth == truth.max())).nonzero().flatten())
    for seed in range(20):
        rest, _, _ = hold_out(single, len(single), seed)
        assert 3 in rest.labels


def test_where_no_film_can_be_spared_single_images_are_held_out():
    images, truth = _filmed()
    last = torch.stack([truth[images.labels == k].max() for k in range(4)])
    single = images.subset(torch.isin(truth, last).nonzero().flatten())
    rest, out, _ = hold_out(single, 6, seed=0)
    assert len(out) == 6 and len(rest) == len(single) - 6


def test_a_control_group_has_one_frame_of_each_film():
    images, truth = _filmed(classes=8)
    one = one_of_each_film(images, seed=0)
    film = _film_of(images, truth)
    assert [film[bytes(row.numpy())] for row in one.images] == truth.unique().tolist()
    groups = pair(images, _filmed(classes=8, key=1)[0], most=1000)
    assert len(groups.train) == len(groups.control) == 8 * len(LENGTHS)
    assert not groups.films
    mixed = _filmed(shuffled=True)[0]
    assert one_of_each_film(mixed, seed=0) is mixed
    assert pair(images, _filmed(classes=8, key=1, shuffled=True)[0], most=1000).films


def test_without_films_images_are_held_out_at_random():
    images, _ = _filmed(shuffled=True)
    rest, out, of_film = hold_out(images, 30, seed=1)
    order = torch.randperm(len(images), generator=stream(1, "validation"))
    assert torch.equal(out.images, images.images[order[:30]])
    assert torch.equal(rest.images, images.images[order[30:]])
    assert of_film is None


def test_too_few_images_to_hold_out_are_refused():
    images, _ = _filmed()
    with pytest.raises(PreimageError, match="at least 5 images"):
        hold_out(images.subset(slice(0, 4)), 2, seed=0)


def test_a_threshold_from_few_films_keeps_its_promise_for_others():
    """Frames of a film score alike: as many images as films say more than as many frames do."""
    random = torch.Generator().manual_seed(0)
    kept = {"images": 0, "films": 0}
    for _ in range(60):
        film = torch.arange(60).repeat_interleave(20)
        scores = torch.randn(60, generator=random)[film] + 0.1 * torch.randn(1200, generator=random)
        new = torch.randn(4000, generator=random) * 1.01**0.5
        kept["images"] += float((new <= threshold_at(scores, 0.95)).float().mean()) >= 0.95
        kept["films"] += (
            float((new <= threshold_of_films(scores, film, 0.95)).float().mean()) >= 0.95
        )
    assert kept["images"] < 40 < kept["films"]


def test_one_film_alone_gives_the_plain_threshold_and_single_images_a_careful_one():
    scores = torch.randn(300, generator=torch.Generator().manual_seed(1))
    one = torch.zeros(300, dtype=torch.long)
    assert threshold_of_films(scores, one, 0.9) == threshold_at(scores, 0.9)
    each = torch.arange(300)
    assert threshold_of_films(scores, each, 1.0) <= scores.max()
    assert threshold_at(scores, 0.9) < threshold_of_films(scores, each, 0.9) < scores.max()
