"""What `preimage ood eval` makes of the unknown images that it is given."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import tiny
from preimage.ood.detector import DETECTOR_FILE
from preimage.sources import CLASSIFIER_FILE
from tiny import evaluate, run

pytestmark = pytest.mark.usefixtures("workplace")


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_parquet(path, rows):
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"bytes": row, "path": None} for row in rows]
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(path)
    return path


def ours(records, name="combined"):
    return {r["ood"]: r for r in records if (r["method"], r["score"]) == ("preimage", name)}


def test_images_that_cannot_be_read_are_reported_and_the_rest_is_measured(capsys, shared):
    folder = shutil.copytree(shared / "other", "more")
    (Path(folder) / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(Path(folder) / "small.png")
    (Path(folder) / "link.png").symlink_to("nowhere")
    status, out, err = evaluate(capsys, shared, "--no-synthetic", "--ood", folder, shared / "other")
    assert status == 0, err
    said = " ".join(err.split())
    assert "left out: more/broken.png" in said.replace(f"{Path.cwd()}/", "") and "small.png" in said
    result = json.loads(out)
    broken, whole = (ours(result["records"])[name] for name in ("more", "other"))
    assert (broken["unreadable"], whole["unreadable"]) == (3, 0)
    assert list(result["unreadable"]) == ["more"] and len(result["unreadable"]["more"]) == 3
    assert broken["auroc"] == whole["auroc"]  # the rest are the same images
    assert "more: 3 images cannot be read" in (Path("eval") / "ood.html").read_text()


def test_known_images_among_unknown_ones_are_left_out_and_counted(capsys, shared):
    images, _ = tiny.bands(90, seed=1)  # the known test images, of which --most takes 60
    for count, name in ((30, "some"), (31, "most")):
        folder = Path(shutil.copytree(shared / "other", name))
        for number, image in enumerate(images[-count:]):
            Image.fromarray(image).save(folder / f"known{number}.png")
    sets = ("some", shared / "other")
    status, out, err = evaluate(capsys, shared, "--no-synthetic", "--ood", *sets)
    assert status == 0, err
    said = "some: 30 images are among the known ones as well, to the byte, and left out"
    assert said in " ".join(err.split()) and said in (Path("eval") / "ood.html").read_text()
    result = json.loads(out)
    some, other = (ours(result["records"])[name] for name in ("some", "other"))
    assert (some["shared"], other["shared"]) == (30, 0) and result["shared"] == {"some": 30}
    assert some["auroc"] == other["auroc"]
    status, out, _ = run(
        capsys,
        *("ood", "eval", shared / "hard", "--id", shared / "bands.npz", "--out", "eval"),
        *("--most", "60", "--no-synthetic", "--ood", *sets),
    )
    assert status == 0 and "images that are known ones as well" in out and "some 30" in out
    shutil.copy(shared / "bands.npz", "twin.npz")
    for source, found in (("most", "31 of the 61"), ("twin.npz", "90 of the 90")):
        status, _, err = evaluate(capsys, shared, "--ood", source, out="none")
        assert status == 2 and f"found {found} in '{source}' among" in " ".join(err.split())
        assert "Traceback" not in err and not Path("none").exists()


def test_a_detector_file_is_told_by_its_content_and_its_data_by_the_run_that_it_lies_in(
    capsys, shared
):
    file = shared / "hard" / DETECTOR_FILE
    unknown = ("--ood", shared / "other", "--no-synthetic", "--json")
    status, out, err = run(capsys, "ood", "eval", file, *unknown)
    assert status == 0, err
    inside = json.loads(out)
    assert inside["id"] == str(shared / "bands.npz")
    for place in (Path("mine.safetensors"), Path("alone", DETECTOR_FILE)):
        place.parent.mkdir(exist_ok=True)
        shutil.copy(file, place)
        model = place if place.parent == Path() else place.parent
        status, _, err = run(capsys, "ood", "eval", model, *unknown)
        said = " ".join(err.split())
        assert status == 2 and f"data set that '{model}' was trained for, found none" in said
        assert "give it with --id" in said and "no garbage class" not in said
        known = ("--id", shared / "bands.npz")
        status, out, err = run(capsys, "ood", "eval", model, *known, *unknown)
        assert status == 0, err
        there = json.loads(out)["records"]
        assert [r["auroc"] for r in there] == [r["auroc"] for r in inside["records"]]


def test_a_plain_classifier_beside_a_plain_classifier_is_refused(capsys, shared):
    known = ("--id", shared / "bands.npz", "--plain", "no-such-classifier")
    status, _, err = run(capsys, "ood", "eval", shared / "plain", *known)
    assert status == 2 and "which is no detector but a plain classifier" in " ".join(err.split())


def test_a_name_that_is_none_is_told_before_its_data_are_asked_for(capsys):
    status, _, err = run(capsys, "ood", "eval", "mnits")
    assert status == 2 and "did you mean 'mnist'" in " ".join(err.split())


def test_a_classifier_in_a_file_named_as_detectors_are_is_measured_as_one(capsys, shared):
    Path("c").mkdir()
    shutil.copy(shared / "plain" / CLASSIFIER_FILE, Path("c", DETECTOR_FILE))
    status, _, err = run(
        capsys,
        *("ood", "eval", Path("c", DETECTOR_FILE), "--id", shared / "bands.npz", "--no-synthetic"),
        *("--ood", shared / "other", "--baselines", "msp"),
    )
    assert status == 0 and "has no garbage class" in " ".join(err.split())
    Path("c", DETECTOR_FILE).write_bytes(b"damaged")
    status, _, err = run(
        capsys, "ood", "eval", Path("c", DETECTOR_FILE), "--id", shared / "bands.npz"
    )
    assert status == 2 and "expected a detector file" in " ".join(err.split())


def test_a_folder_without_a_readable_image_is_one_sentence(capsys, shared):
    Path("junk").mkdir()
    for name in ("a.png", "b.png"):
        Path("junk", name).write_bytes(b"no image")
    status, _, err = evaluate(capsys, shared, "--no-synthetic", "--ood", "junk")
    said = " ".join(err.split())
    assert status == 2 and "at least one image that can be read" in said and "among 2" in said
    assert "Traceback" not in err and not Path("eval").exists()


def test_a_single_image_is_not_looked_for_on_the_hub(capsys, shared):
    for place in ("photo.png", "some/photo.png"):
        Path(place).parent.mkdir(exist_ok=True)
        shutil.copy(shared / "other" / "00.png", place)
        status, _, err = evaluate(capsys, shared, "--ood", place)
        said = " ".join(err.split())
        assert status == 2 and f"found the single file '{place}'; put it into a folder" in said
        assert "`preimage ood score`" in said and "hub" not in said


def test_known_images_that_cannot_be_read_are_refused(capsys, shared):
    images, labels = tiny.bands(30)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = Path("known", str(label))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:02}.png")
    Path("known/0/00.png").write_bytes(b"no image")
    status, _, err = run(
        capsys, "ood", "eval", shared / "hard", "--id", "known", "--ood", shared / "other"
    )
    assert status == 2 and "00.png cannot be decoded" in " ".join(err.split())


def test_a_parquet_file_is_measured_as_the_folder_of_its_images(capsys, shared):
    files = sorted((shared / "other").glob("*.png"))
    rows = [file.read_bytes() for file in files]
    write_parquet("rows.parquet", [*rows, b"no image"])
    status, out, err = evaluate(
        capsys, shared, "--no-synthetic", "--ood", "rows.parquet", shared / "other"
    )
    assert status == 0, err
    found = ours(json.loads(out)["records"])
    figures = ("auroc", "aupr_in", "fpr95", "garbage_share")
    assert all(found["rows"][name] == found["other"][name] for name in figures)
    assert found["rows"]["unreadable"] == 1 and "row 30 of rows" in " ".join(err.split())


def test_shortcuts_are_named_in_record_and_page(capsys, shared):
    random = np.random.default_rng(3)
    framed = random.integers(30, 120, (30, 8, 8), dtype=np.uint8)
    framed[:, [0, -1]] = framed[:, :, [0, -1]] = 30
    write_parquet("framed.parquet", [encoded(image) for image in framed])
    status, out, err = evaluate(capsys, shared, "--no-synthetic", "--ood", "framed.parquet")
    assert status == 0, err
    named = {s["statistic"]: s["auroc"] for s in json.loads(out)["shortcuts"]["framed"]}
    assert named["constant border"] == 1.0
    page = (Path("eval") / "ood.html").read_text()
    assert "framed: constant border alone tells it from the known images" in page
    status, out, _ = run(
        capsys,
        *("ood", "eval", shared / "hard", "--id", shared / "bands.npz", "--out", "eval"),
        *("--most", "60", "--no-synthetic", "--ood", "framed.parquet"),
    )
    assert status == 0 and "framed constant border" in out
