"""What becomes of pixels: file modes, conversion, arrays; and what the hub is asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from preimage.data import ImageSet, convert_images, load
from preimage.errors import PreimageError
from preimage.types import ImageSpec


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*has no splits")
        yield


def image_set(images: torch.Tensor) -> ImageSet:
    return ImageSet("x", "test", images, torch.arange(len(images)), ("a", "b", "c"))


def test_floats_subset_and_spec() -> None:
    images = image_set(
        torch.tensor([0, 51, 255]).to(torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 9)
    )
    assert images.spec == ImageSpec(3, 8, 9) and images.classes == 3 and len(images) == 3
    assert images.floats().dtype == torch.float32
    assert images.floats()[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert images.floats([1]).shape == (1, 3, 8, 9)
    part = images.subset(torch.tensor([2, 0]))
    assert part.labels.tolist() == [2, 0] and part.images[:, 0, 0, 0].tolist() == [255, 0]
    assert part.class_names == images.class_names


def test_colour_to_grey_and_back() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90], [10, 200, 30]])
    images = colours.to(torch.uint8).view(5, 3, 1, 1).expand(5, 3, 8, 8)
    grey = convert_images(images, ImageSpec(1, 8, 8))
    assert grey[:, 0, 3, 3].tolist() == [76, 150, 29, 90, 124]
    again = convert_images(grey, ImageSpec(3, 8, 8))
    assert torch.equal(again, grey.expand(-1, 3, -1, -1))


def test_resize_known_values() -> None:
    step = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    step[..., 8:] = 200
    small = convert_images(step, ImageSpec(1, 8, 8))
    # halving, the triangle filter weighs four neighbours 1/8, 3/8, 3/8, 1/8
    assert small[0, 0, 4].tolist() == [0, 0, 0, 25, 175, 200, 200, 200]
    fine = torch.tensor([0, 255] * 16, dtype=torch.uint8).expand(1, 1, 32, 32)
    assert set(convert_images(fine, ImageSpec(1, 8, 8))[0, 0, 4, 1:-1].tolist()) <= {127, 128}
    large = convert_images(step, ImageSpec(1, 32, 32))[0, 0, 9].tolist()
    assert large[14:18] == [0, 50, 150, 200]


def test_convert_is_the_identity_for_its_own_spec() -> None:
    images = image_set(torch.randint(0, 256, (3, 3, 8, 8)).to(torch.uint8))
    assert images.convert(ImageSpec(3, 8, 8)) is images
    grey = images.convert(ImageSpec(1, 10, 12))
    assert grey.spec == ImageSpec(1, 10, 12) and grey.labels is images.labels
    for spec in (ImageSpec(4, 8, 8), ImageSpec(1, 7, 8)):
        with pytest.raises(PreimageError, match="cannot be converted"):
            images.convert(spec)
        with pytest.raises(PreimageError, match="cannot be converted"):
            load("mnist", spec=spec)


def test_long_sets_are_converted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (10, 3, 12, 12)).to(torch.uint8)
    whole = convert_images(images, ImageSpec(1, 9, 9))
    monkeypatch.setattr("preimage.data.imageset._CHUNK_BYTES", 4 * 3 * 144 * 3)
    assert torch.equal(convert_images(images, ImageSpec(1, 9, 9)), whole)


GREY = np.full((8, 8), 100, np.uint8)
RGB = np.stack([GREY, GREY // 2, GREY // 4], axis=2)
ALPHA = np.full((8, 8, 1), 128, np.uint8)


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.fromarray(GREY), "png", [100]),
        (Image.fromarray(GREY > 50), "png", [255]),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "png", [100]),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "tiff", [100]),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "pgm", [100]),
        (Image.fromarray(np.concatenate([GREY[..., None], ALPHA], 2)), "png", [100]),
        (Image.fromarray(RGB), "png", [100, 50, 25]),
        (Image.fromarray(np.concatenate([RGB, ALPHA], 2)), "png", [100, 50, 25]),
        (Image.fromarray(RGB).quantize(4), "png", [100, 50, 25]),
        (Image.fromarray(RGB).convert("CMYK"), "tiff", [100, 50, 25]),
    ],
)
def test_file_modes(tmp_path: Path, image: Image.Image, suffix: str, expected: list[int]) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        image.save(tmp_path / "set" / name / f"1.{suffix}")
    images = load(str(tmp_path / "set"))
    assert images.images[1, :, 3, 4].tolist() == expected


@pytest.mark.parametrize(("number", "said"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_file_of_pixels_without_an_agreed_range_is_refused(
    tmp_path: Path, number: type, said: str
) -> None:
    Image.fromarray(GREY.astype(number)).save(tmp_path / "1.tiff")
    with pytest.raises(PreimageError, match=rf"1.tiff .*{said}"):
        load(str(tmp_path), labelled=False)


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    pixels = np.zeros((8, 12), np.uint8)
    pixels[:, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=exif)
    images = load(str(tmp_path), labelled=False)
    assert images.spec == ImageSpec(1, 12, 8)
    assert images.images[0, 0, :2, 5].tolist() == [255, 0]


@pytest.mark.parametrize("first", ["grey", "colour"])
@pytest.mark.parametrize("batch", [1, 10_000])
def test_grey_and_colour_become_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, batch: int
) -> None:
    monkeypatch.setattr("preimage.data.decode._BATCH_BYTES", batch)
    pair = [GREY, RGB] if first == "grey" else [RGB, GREY]
    for i, pixels in enumerate(pair):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    images = load(str(tmp_path), labelled=False).images[:, :, 0, 0].tolist()
    assert sorted(images) == [[100, 50, 25], [100, 100, 100]]
    assert images[0] == ([100, 100, 100] if first == "grey" else [100, 50, 25])


def test_spec_admits_mixed_sizes_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(9, 9, 3), (20, 8), (9, 9, 3), (30, 31, 3), (20, 8)]
    pixels = [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    with pytest.raises(PreimageError, match="one size"):
        load(str(tmp_path), labelled=False)
    spec = ImageSpec(1, 10, 10)
    images = load(str(tmp_path), labelled=False, spec=spec).images
    for got, one in zip(images, pixels, strict=True):
        tensor = torch.from_numpy(one if one.ndim == 3 else one[..., None]).permute(2, 0, 1)
        assert torch.equal(got, convert_images(tensor[None], spec)[0])


# Arrays ----------------------------------------------------------------------------------------


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


PIXELS = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)


@pytest.mark.parametrize(
    ("images", "spec"),
    [
        (PIXELS, ImageSpec(1, 8, 8)),
        (PIXELS[..., None], ImageSpec(1, 8, 8)),
        (np.stack([PIXELS] * 3, 1), ImageSpec(3, 8, 8)),
        (np.stack([PIXELS] * 3, 3).astype(np.int64), ImageSpec(3, 8, 8)),
        (PIXELS / 255, ImageSpec(1, 8, 8)),
    ],
)
def test_npz_layouts(tmp_path: Path, images: np.ndarray, spec: ImageSpec) -> None:
    found = load(save(tmp_path / "a.npz", images=images, labels=[0, 2, 1]))
    assert found.spec == spec and found.labels.tolist() == [0, 2, 1]
    for channel in found.images.unbind(1):
        assert torch.equal(channel, torch.from_numpy(PIXELS))
    converted = load(str(tmp_path / "a.npz"), spec=ImageSpec(3, 9, 9))
    assert torch.equal(converted.images, found.convert(ImageSpec(3, 9, 9)).images)


def test_npz_splits(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.npz", x_train=PIXELS, y_train=["u", "v", "u"], x_test=PIXELS[:1], y_test=["w"]
    )
    assert load(path, "train").labels.tolist() == [0, 1, 0]
    assert load(path, "test").labels.tolist() == [2]
    assert load(path, "test").class_names == ("u", "v", "w")
    with pytest.raises(PreimageError, match="ask for one of test, train"):
        load(path, "val")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": PIXELS}, "has arrays a, expected arrays images and labels"),
        ({"x": PIXELS}, "has no array y"),
        ({"x": PIXELS, "y": [0, 1]}, r"labels of shape \(2,\) for 3 images"),
        ({"x": PIXELS, "y": [0.0, 1.0, 2.0]}, "float64 labels"),
        ({"x": PIXELS, "y": [0, -1, 1]}, "label -1"),
        ({"x": PIXELS, "y": [0, 1, 10**9]}, "label 1000000000"),
        ({"x": PIXELS, "y": [2, 2, 2]}, "fewer than two classes"),
        ({"x": PIXELS[:, :7], "y": [0, 1, 2]}, r"shape \(3, 7, 8\)"),
        ({"x": PIXELS[:0], "y": np.zeros(0, int)}, r"shape \(0, 8, 8\)"),
        ({"x": PIXELS[0], "y": [0]}, r"shape \(8, 8\)"),
        ({"x": PIXELS - 1.0, "y": [0, 1, 2]}, "images from -1.0 to 190.0"),
        ({"x": np.array([PIXELS, None], object), "y": [0, 1]}, "cannot be read as plain arrays"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(PreimageError, match=message):
        load(save(tmp_path / "bad.npz", **arrays))


def test_damaged_npz(tmp_path: Path) -> None:
    whole = Path(save(tmp_path / "a.npz", x=PIXELS, y=[0, 1, 2])).read_bytes()
    for content in (whole[:-40], b"", b"junk"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(PreimageError, match="cannot be read as plain arrays"):
            load(str(tmp_path / "a.npz"))


# The hub, without a network --------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub that has one set, and notes what it is asked."""
    import datasets
    import huggingface_hub

    state = SimpleNamespace(asked=[], error=None, sha="r1")
    table = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(GREY), Image.fromarray(GREY)], "label": [1, 0]},
        datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["n", "y"])}
        ),
    )

    def info(self: object, repo: str, timeout: float) -> SimpleNamespace:
        assert timeout <= 10
        if state.error:
            raise state.error
        return SimpleNamespace(sha=state.sha)

    def load_dataset(*args: str, revision: str) -> dict[str, datasets.Dataset]:
        state.asked.append((*args, revision))
        if state.error:
            raise state.error
        return {"test": table}

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("PREIMAGE_DATA", raising=False)
    return state


def test_hub_sets(hub: SimpleNamespace) -> None:
    assert load("svhn").class_names == ("n", "y")
    assert load("own/er:part").labels.tolist() == [1, 0]
    assert load("own/er:part").name == "own/er:part"
    assert hub.asked == [("ufldl-stanford/svhn", "cropped_digits", "r1"), ("own/er", "part", "r1")]
    hub.sha = "r2"
    load("svhn")
    assert hub.asked[2:] == [("ufldl-stanford/svhn", "cropped_digits", "r2")]


def test_no_network(hub: SimpleNamespace) -> None:
    hub.error = ConnectionError("no route to\nhost")
    with pytest.raises(PreimageError, match=r"svhn .*no route to host.*svhn/train-.*PREIMAGE_DATA"):
        load("svhn")
    assert hub.asked == [], "a download would retry for minutes"
    hub.error = None
    load("svhn")
    hub.error = ConnectionError("no route")
    assert len(load("svhn")) == 2, "what was cached once needs no network"
    with pytest.raises(PreimageError, match="no route"):
        load("svhn", "train")


def test_offline_mode_asks_only_the_local_copy(hub: SimpleNamespace) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    hub.error = OfflineModeIsEnabled("offline mode")
    with pytest.raises(PreimageError, match="own/er could not be had from the hub"):
        load("own/er")
    assert hub.asked == [("own/er", None, None)]
