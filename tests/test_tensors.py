"""Files of tensors whose header or tensors are not what their format says."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, safe_open

import tiny
from preimage.classifier import Classifier
from preimage.cli import main
from preimage.errors import PreimageError
from preimage.inversion import FORMAT as GENERATOR
from preimage.inversion import Inversion
from preimage.jobs.invert import GENERATOR_FILE
from preimage.ood.detector import FORMAT as DETECTOR
from preimage.ood.detector import Detector
from preimage.tensors import pack, understood
from preimage.types import ImageSpec
from preimage.zoo.cards import FORMAT as CLASSIFIER
from preimage.zoo.cards import load_file as load_classifier_file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inversion") / "run"
    assert main(tiny.invert_arguments(folder)) == 0
    return folder


def changed(run, path, **header):
    """The inversion's file with other texts in its header; None leaves one out."""
    source = run / GENERATOR_FILE
    with safe_open(source, framework="pt") as file:
        texts = {**file.metadata(), **header}
    path.write_bytes(pack(load_file(source), {k: v for k, v in texts.items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("form", "load"),
    [
        (GENERATOR, Inversion.load),
        (DETECTOR, Detector.load),
        (CLASSIFIER, lambda path: load_classifier_file(path, "name")),
    ],
)
@pytest.mark.parametrize("text", [None, "{", "3", "[]", "{}"])
def test_header_without_what_its_format_has_is_one_sentence(tmp_path, form, load, text):
    names = ("spec", "class_names", "config", "checks", "recipe", "card", "score")
    header = {} if text is None else dict.fromkeys(names, text)
    file = tmp_path / "file.safetensors"
    file.write_bytes(pack({"weight": torch.zeros(2)}, {"format": form, **header}))
    with pytest.raises(PreimageError, match=r"expected a whole \w+ file, found '.*' damaged"):
        load(file)


def test_generator_of_other_settings_than_its_tensors_is_one_sentence(run, tmp_path):
    for header in ({"spec": "[1, 16, 16]"}, {"class_names": '["a"]'}, {"checks": None}):
        with pytest.raises(PreimageError, match="damaged"):
            Inversion.load(changed(run, tmp_path / "g.safetensors", **header))
    whole = Inversion.load(changed(run, tmp_path / "g.safetensors"))
    assert json.dumps(whole.spec.shape) == "[1, 8, 8]"


def test_generator_goes_with_a_classifier_of_its_classes_and_images_alone(run):
    fitting = Classifier(tiny.build(), ImageSpec(1, 8, 8))
    assert Inversion.load(run / GENERATOR_FILE, fitting).classifier is fitting
    for other in (
        Classifier(tiny._network(inputs=12 * 12), ImageSpec(1, 12, 12)),
        Classifier(tiny._network(classes=5), ImageSpec(1, 8, 8)),
    ):
        with pytest.raises(PreimageError, match="expected a classifier of 3 classes and images 1x"):
            Inversion.load(run / GENERATOR_FILE, other)


def test_too_little_memory_is_not_called_damage(tmp_path):
    with pytest.raises(RuntimeError), understood(tmp_path, "kind", "advice"):
        raise RuntimeError("can't allocate memory")
