"""Every kind of source and every kind of bad input, on small generated sets."""

from __future__ import annotations

import io
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from preimage.data import KNOWN, ImageSet, load
from preimage.data.known import same_source
from preimage.data.local import image_files
from preimage.data.order import in_order
from preimage.errors import PreimageError
from preimage.types import ImageSpec

IMAGE = {"_type": "Image"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*has no splits")
        yield


def png(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, options.pop("format", "PNG"), **options)
    return out.getvalue()


def numbered(count: int, channels: int = 1, side: int = 8) -> list[np.ndarray]:
    """Image i has the value i everywhere but for a mark that shows its orientation."""
    images = []
    for i in range(count):
        pixels = np.full((side, side, channels), i, np.uint8)
        pixels[0, 1:3, 0] = 200, 201
        images.append(pixels if channels == 3 else pixels[..., 0])
    return images


def write_parquet(path: Path, columns: dict[str, list], features: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        key: [{"bytes": v, "path": None} if isinstance(v, bytes) else v for v in values]
        for key, values in columns.items()
    }
    table = pa.table(columns)
    if features:
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path)
    return path


def class_label(count: int) -> dict:
    return {"_type": "ClassLabel", "names": [f"c{k}" for k in range(count)]}


def write_images(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(images):
        (folder / f"{i:03}.png").write_bytes(png(pixels))


def pixels_equal(images: ImageSet, expected: list[np.ndarray]) -> bool:
    stacked = torch.from_numpy(np.stack(expected))
    stacked = stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)
    return torch.equal(images.images, stacked)


# Parquet and known names -----------------------------------------------------------------------


def test_svhn_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbered(12, 3)
    for split, rows in (("train", images), ("test", images[:4]), ("extra", images[5:6])):
        write_parquet(
            tmp_path / "svhn" / f"{split}-00000-of-00001.parquet",
            {"image": [png(p) for p in rows], "label": [i % 10 for i in range(len(rows))]},
            {"image": IMAGE, "label": class_label(10)},
        )
    monkeypatch.setenv("PREIMAGE_DATA", str(tmp_path))
    train = load("svhn", "train")
    assert (train.name, train.split, train.classes, len(train)) == ("svhn", "train", 10, 12)
    assert train.spec == ImageSpec(3, 8, 8)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    assert pixels_equal(train, images)
    assert train.labels.tolist() == [i % 10 for i in range(12)]
    assert len(load("SVHN")) == 4 and len(load("svhn", "extra")) == 1
    with pytest.raises(PreimageError, match="no split 'val': ask for one of extra, test, train"):
        load("svhn", "val")


def test_svhn_configuration_of_a_whole_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config, count in (("cropped_digits", 3), ("full_numbers", 7)):
        write_parquet(
            tmp_path / "svhn" / config / "test-00000-of-00001.parquet",
            {"image": [png(p) for p in numbered(count, 3)], "label": [0, 1, *[1] * (count - 2)]},
            {"image": IMAGE, "label": class_label(10)},
        )
    monkeypatch.setenv("PREIMAGE_DATA", str(tmp_path))
    assert len(load("svhn")) == 3


def test_cifar100_takes_the_fine_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbered(5, 3)
    write_parquet(
        tmp_path / "cifar100" / "test-00000-of-00001.parquet",
        {
            "img": [png(p, format="WEBP", lossless=True) for p in images],
            "coarse_label": [1, 2, 3, 4, 5],
            "fine_label": [99, 0, 7, 7, 50],
        },
        {"img": IMAGE, "coarse_label": class_label(20), "fine_label": class_label(100)},
    )
    monkeypatch.setenv("PREIMAGE_DATA", str(tmp_path))
    test = load("cifar100")
    assert test.labels.tolist() == [99, 0, 7, 7, 50] and test.classes == 100
    assert pixels_equal(test, images)
    monkeypatch.setitem(KNOWN, "cifar100", replace(KNOWN["cifar100"], label="coarse_label"))
    assert load("cifar100").labels.tolist() == [1, 2, 3, 4, 5]


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    images = numbered(40)
    for shard in (1, 0):
        rows = range(20 * shard, 20 * shard + 20)
        write_parquet(
            tmp_path / "set" / f"train-0000{shard}-of-00002.parquet",
            {"image": [png(images[i]) for i in rows], "label": [i % 2 for i in rows]},
            {"image": IMAGE, "label": class_label(2)},
        )
    assert pixels_equal(load(str(tmp_path / "set"), "train"), images)


def test_shards_of_different_columns_are_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    columns = {"image": [png(image) for image in numbered(4)], "label": [0, 1, 0, 1]}
    write_parquet(folder / "train-00000-of-00002.parquet", columns)
    plain = pa.table({"image": [png(image) for image in numbered(4)], "label": [0, 1, 0, 1]})
    pq.write_table(plain, folder / "train-00001-of-00002.parquet")
    with pytest.raises(PreimageError, match="of one schema"):
        load(str(folder), "train")


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["b", "a", "b"], ("a", "b", "z"), [1, 0, 1]),
        ([3, 0, 1], ("0", "1", "2", "3", "4"), [3, 0, 1]),
    ],
)
def test_labels_without_names_agree_between_splits(
    tmp_path: Path, labels: list, names: tuple[str, ...], expected: list[int]
) -> None:
    folder = tmp_path / "set"
    images = [png(p) for p in numbered(3)]
    elsewhere = ["z"] if isinstance(labels[0], str) else [4]
    write_parquet(folder / "train.parquet", {"photo": images, "kind": labels})
    write_parquet(folder / "test.parquet", {"photo": images[:1], "kind": elsewhere})
    train = load(str(folder), "train")
    assert train.class_names == names
    assert train.labels.tolist() == expected
    assert load(str(folder), "test").class_names == names


@pytest.mark.parametrize("others", [["cat", "dog"], [0.0, 2.5]])
def test_labels_of_another_kind_in_another_split_are_told(tmp_path: Path, others: list) -> None:
    images = np.zeros((2, 8, 8), dtype=np.uint8)
    path = tmp_path / "set.npz"
    np.savez(path, x_train=images, y_train=[0, 1], x_test=images, y_test=others)
    with pytest.raises(PreimageError, match="expected all integers or all strings"):
        load(str(path), "train")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([str(k) for k in range(12)], "'10' is class 2"),
        ([f"{k:02d}" for k in range(12)], None),
        (["1", "2", "3"], None),  # as ordered as numbers are
        (["10", "9", "nine"], None),
    ],
)
def test_class_folders_that_are_numbers_in_another_order_are_told(
    tmp_path: Path, names: list[str], said: str | None
) -> None:
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").write_bytes(png(numbered(1)[0]))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert load(str(tmp_path), "train").class_names == tuple(sorted(names))
    assert [said in str(one.message) for one in heard if said] == [True] * (said is not None)
    assert said or not heard


def test_single_parquet_file_stands_for_any_split(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "some.parquet", {"image": [png(p) for p in numbered(3)], "label": [0, 1, 1]}
    )
    with pytest.warns(UserWarning, match="has no splits, so all of its 3 images"):
        assert load(str(path), "train").split == "all"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlabelled = load(str(path), labelled=False)
    assert unlabelled.labels.tolist() == [-1, -1, -1] and unlabelled.class_names == ()


@pytest.mark.parametrize("label", [-1, 3, None])
def test_labels_outside_of_the_names(tmp_path: Path, label: int | None) -> None:
    path = write_parquet(
        tmp_path / "bad.parquet",
        {"image": [png(p) for p in numbered(2)], "label": [0, label]},
        {"image": IMAGE, "label": class_label(3)},
    )
    with pytest.raises(PreimageError, match=f"row 1 .* has label {label}, expected 0 to 2"):
        load(str(path))
    assert len(load(str(path), labelled=False)) == 2


def test_negative_plain_label(tmp_path: Path) -> None:
    images = [png(p) for p in numbered(3)]
    path = write_parquet(tmp_path / "bad.parquet", {"image": images, "label": [0, 1, -5]})
    with pytest.raises(PreimageError, match=r"row 2 .* has label -5"):
        load(str(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"junk"], "label": [0]}, "row 0 of bad .* cannot be decoded"),
        ({"image": [png(numbered(1)[0])[:-30]], "label": [0]}, "row 0 of bad .* decoded"),
        ({"text": ["a"], "label": [0]}, "no column that could be the image"),
        ({"image": [png(numbered(1)[0])], "weight": [0.5]}, "no column .* the label"),
        ({"image": [png(numbered(1)[0])], "a": [0], "b": [0]}, "several columns .* the label"),
        ({"image": [png(numbered(1)[0])] * 2, "label": [1, 1]}, "fewer than two classes"),
        ({"image": [png(p) for p in numbered(1, side=7)], "label": [0]}, "7x7 pixels"),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    path = write_parquet(tmp_path / "bad.parquet", columns)
    with pytest.raises(PreimageError, match=message):
        load(str(path))


def test_damaged_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PreimageError, match=r"bad\.parquet cannot be read as a table"):
        load(str(tmp_path / "bad.parquet"))


# Folders of images -----------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    root = tmp_path / "pets [2]"
    images = numbered(5)
    write_images(root / "dog", images[:2])
    write_images(root / "cat", images[2:])
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"junk")
    pets = load(str(root), "train")
    assert pets.name == "pets [2]" and pets.class_names == ("cat", "dog")
    assert pets.labels.tolist() == [0, 0, 0, 1, 1]
    assert pixels_equal(pets, images[2:] + images[:2])


def test_folder_with_splits_numbers_classes_alike(tmp_path: Path) -> None:
    for split, classes in (("train", "abc"), ("val", "c"), ("test", "bc")):
        for name in classes:
            write_images(tmp_path / "set" / split / name, numbered(2))
    (tmp_path / "set" / "README.md").write_text("hello")
    test = load(str(tmp_path / "set"), "test")
    assert test.class_names == ("a", "b", "c") and test.labels.tolist() == [1, 1, 2, 2]
    assert load(str(tmp_path / "set"), "validation").labels.tolist() == [2, 2]
    with pytest.raises(PreimageError, match="ask for one of test, train, val"):
        load(str(tmp_path / "set"), "extra")


def test_linked_class_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "a", numbered(2))
    write_images(tmp_path / "elsewhere", numbered(3))
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    assert load(str(tmp_path / "set")).labels.tolist() == [0, 0, 1, 1, 1]


def test_no_image_is_added_or_lost_in_silence(tmp_path: Path) -> None:
    for name in "ab":
        write_images(tmp_path / "set" / name, numbered(2))
    Image.fromarray(numbered(1)[0]).save(tmp_path / "set" / "a" / "more.tga")
    with pytest.raises(PreimageError, match=r"5 images could be read .* where 4 files"):
        load(str(tmp_path / "set"))


def test_flat_folder_needs_labelled_false(tmp_path: Path) -> None:
    images = numbered(12)
    write_images(tmp_path / "flat", images)
    with pytest.raises(PreimageError, match=r"000.png is not right inside a class folder"):
        load(str(tmp_path / "flat"))
    flat = load(str(tmp_path / "flat"), labelled=False)
    assert flat.class_names == () and flat.classes == 0
    assert flat.labels.tolist() == [-1] * 12
    assert pixels_equal(flat, images)


def test_bad_folders(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(PreimageError, match="is empty"):
        load(str(root))
    (root / "notes.txt").write_text("x")
    with pytest.raises(PreimageError, match="holds no image"):
        load(str(root))
    write_images(root / "a", numbered(2))
    with pytest.raises(PreimageError, match="fewer than two classes"):
        load(str(root))
    write_images(root / "b", numbered(2))
    (root / "b" / "001.png").write_bytes(b"junk")
    with pytest.raises(PreimageError, match=r"b/001\.png cannot be decoded"):
        load(str(root))
    write_images(root / "b", numbered(2, side=9))
    with pytest.raises(PreimageError, match=r"one size, but .*b/000.png is 9x9 .* are 8x8"):
        load(str(root))


def test_lenient_reading_leaves_out_what_cannot_be_read_and_says_why(tmp_path: Path) -> None:
    root, spec = tmp_path / "root", ImageSpec(1, 8, 8)
    images = numbered(4)
    write_images(root, images)
    (root / "001.png").write_bytes(b"junk")
    write_images(root / "small", numbered(1, side=5))
    for _ in range(2):  # the second time from the cache
        found = load(str(root), spec=spec, labelled=False, lenient=True)
        assert pixels_equal(found, [images[i] for i in (0, 2, 3)])
        decoded, small = found.unreadable
        assert "001.png cannot be decoded" in decoded and "000.png is 5x5 pixels" in small
        with pytest.raises(PreimageError, match=r"001\.png cannot be decoded"):
            load(str(root), spec=spec, labelled=False)
    assert found.subset([0]).unreadable == found.unreadable
    with pytest.raises(PreimageError, match="lenient=True without labels"):
        load(str(root), spec=spec, lenient=True)
    for file in root.glob("*.png"):
        file.write_bytes(b"junk")
    with pytest.raises(PreimageError, match=r"at least one image .* none among 5.*000\.png cannot"):
        load(str(root), spec=spec, labelled=False, lenient=True)


def test_links_to_nothing_and_named_pipes_are_unreadable_and_nothing_waits_for_them(
    tmp_path: Path,
) -> None:
    root, spec = tmp_path / "root", ImageSpec(1, 8, 8)
    images = numbered(2)
    write_images(root, images)
    (root / "link.png").symlink_to("nowhere")
    os.mkfifo(root / "pipe.png")
    for _ in range(2):  # the second time from the cache
        found = load(str(root), spec=spec, labelled=False, lenient=True)
        assert pixels_equal(found, images)
        link, pipe = found.unreadable
        assert "link.png is neither a file nor a link to one that is there" in link
        assert "pipe.png is neither" in pipe
    with pytest.raises(PreimageError, match=r"link\.png is neither a file nor .*: mend or remove"):
        load(str(root), spec=spec, labelled=False)
    (root / "nowhere").write_bytes((root / "000.png").read_bytes())
    found = load(str(root), spec=spec, labelled=False, lenient=True)
    assert pixels_equal(found, [*images, images[0]]) and len(found.unreadable) == 1
    for file in root.glob("0*.png"):
        file.unlink()
    (root / "link.png").unlink()
    with pytest.raises(PreimageError, match=r"at least one image .* none among 1, .*pipe\.png is"):
        load(str(root), spec=spec, labelled=False, lenient=True)


def test_a_parquet_file_that_is_a_link_to_nothing_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "test-0.parquet").symlink_to("nowhere")
    with pytest.raises(PreimageError, match=r"test-0\.parquet is neither a file nor a link"):
        load(str(tmp_path), labelled=False, lenient=True)


# Names and the hub -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", "did you mean mnist"),
        ("cifar-11", "did you mean cifar10"),
        ("./nowhere", "no image set './nowhere': give one of: a known name"),
        ("", "no image set ''"),
    ],
)
def test_unknown_source(source: str, message: str) -> None:
    with pytest.raises(PreimageError, match=message):
        load(source)


def test_gtsrb_has_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREIMAGE_DATA", str(tmp_path))
    with pytest.raises(PreimageError, match=r"gtsrb is not on the hub.*set PREIMAGE_DATA"):
        load("gtsrb")


# Real data -------------------------------------------------------------------------------------

real = pytest.mark.skipif(not os.environ.get("PREIMAGE_DATA"), reason="PREIMAGE_DATA is not set")


@real
def test_real_mnist() -> None:
    test = load("mnist")
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert test.class_names == tuple("0123456789")
    assert abs(test.floats().mean().item() - 0.1325) < 1e-3


@real
def test_real_gtsrb() -> None:
    test = load("gtsrb")
    assert test.images.shape == (3000, 3, 32, 32)
    assert test.classes == 43 and test.labels.unique().numel() == 43


# Classes, splits and shapes --------------------------------------------------------------------


def named(names: list[str]) -> ImageSet:
    labels = torch.arange(2 * len(names)) % len(names)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return ImageSet("animals", "test", images, labels, tuple(names))


def test_classes_of_the_same_names_are_matched_by_name() -> None:
    found = named(["bird", "Cat", "dog!"])
    with pytest.warns(UserWarning, match="another order than the classifier's .*matched by name"):
        matched = in_order(found, ("cat", "dog", "bird"), "the classifier")
    assert matched.class_names == ("cat", "dog", "bird")
    for label, before in zip(matched.labels.tolist(), found.labels.tolist(), strict=True):
        assert matched.class_names[label][:3] == found.class_names[before][:3].lower()


@pytest.mark.parametrize(
    "names",
    [("bird", "cat", "dog"), ("0", "1", "2"), ("bird", "kitten", "hound"), ("bird", "cat")],
)
def test_classes_that_do_not_contradict_are_left_as_they_are(names: tuple[str, ...]) -> None:
    found = named(["bird", "cat", "dog"])
    assert in_order(found, names, "the classifier") is found


def test_classes_that_contradict_are_refused() -> None:
    with pytest.raises(PreimageError, match="'dog' as class 0 instead of 2"):
        in_order(named(["dog", "fox", "wolf"]), ("cat", "bird", "dog"), "the classifier")


def test_validation_stands_for_a_test_split_that_is_not_there(tmp_path: Path) -> None:
    for split, kind in itertools.product(("train", "val"), "ab"):
        write_images(tmp_path / split / kind, numbered(3 if split == "val" else 5))
    with pytest.warns(UserWarning, match="no test split, so its val split stands for it"):
        assert len(load(str(tmp_path), "test")) == 6
    with pytest.raises(PreimageError, match="no split 'extra'"):
        load(str(tmp_path), "extra")


def test_the_stored_shape_is_told_and_of_several_the_median(tmp_path: Path) -> None:
    write_images(tmp_path / "a", numbered(3))
    wanted = ImageSpec(1, 12, 12)
    for _ in range(2):  # from the folder, and from the cache
        found = load(str(tmp_path), spec=wanted, labelled=False)
        assert (found.spec, found.stored) == (wanted, ImageSpec(1, 8, 8)) and not found.mixed
    write_images(tmp_path / "b", numbered(2, channels=3))
    assert load(str(tmp_path), spec=wanted).stored == ImageSpec(3, 8, 8)
    write_images(tmp_path / "c", numbered(2, side=9))
    assert load(str(tmp_path), spec=wanted).stored == ImageSpec(3, 8, 8)
    write_images(tmp_path / "d", numbered(6, side=10))
    for _ in range(2):
        found = load(str(tmp_path), spec=wanted)
        assert found.stored == ImageSpec(3, 9, 9) and found.mixed


def test_a_folder_named_as_a_known_set_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"image": [png(p) for p in numbered(4)], "label": [0, 1, 0, 1]}
    for split in ("train", "test"):
        write_parquet(tmp_path / "data" / "mnist" / f"{split}-00000-of-00001.parquet", row)
    monkeypatch.setenv("PREIMAGE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "MNIST" / "a", numbered(3))
    with pytest.warns(UserWarning, match=r"not the folder; write \./MNIST"):
        assert len(load("MNIST")) == 4
    assert len(load("./MNIST", labelled=False)) == 3


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path: Path) -> None:
    write_images(tmp_path / "a", numbered(3))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "here").symlink_to(".")
    assert len(image_files(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["one array", "middle"])
def test_an_npz_that_is_none_or_damaged_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "set.npz"
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    if damage == "one array":
        with path.open("wb") as file:
            np.save(file, images)
    else:
        np.savez_compressed(path, images=images, labels=np.arange(50) % 2)
        content = bytearray(path.read_bytes())
        content[200:1200] = bytes(1000)
        path.write_bytes(content)
    with pytest.raises(PreimageError, match=r"set\.npz cannot be read as plain arrays"):
        load(str(path))


def test_a_known_name_is_the_known_set_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert same_source("mnist", "MNIST") and same_source("fashion-mnist", "Fashion_MNIST")
    assert not same_source("mnist", "./mnist")
    assert same_source("./mnist", str(tmp_path / "mnist"))
