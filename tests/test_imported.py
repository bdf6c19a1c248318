"""A user's own scheme or generator is tried before anything is learnt with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from preimage.cli import main
from preimage.conditioning import make_scheme
from preimage.config import GeneratorConfig
from preimage.generator import Generator, make_generator, plane_size
from preimage.types import ImageSpec

CODE = """
import torch
from torch import nn
from preimage.conditioning import Label, VectorMatrix
from preimage.generator import Generator

class Fine(VectorMatrix):
    pass

class Loose(Label):
    def __call__(self, labels, generator):
        return super().__call__(labels, generator)._replace(target=labels.float())

class Silent(Label):
    def __call__(self, labels, generator):
        return None

class Broken(Label):
    def __call__(self, labels, generator):
        raise ValueError("no idea")

class Nothing:
    def __init__(self, *_):
        pass

class Whole(Generator):
    pass

class Wide(Generator):
    def forward(self, noise, condition):
        return super().forward(noise, condition) * 3

class Flat(Generator):
    def forward(self, noise, condition):
        return super().forward(noise, condition).flatten(1)

class Forgetful(Generator):
    def restart(self, generator):
        super().restart(generator)

class Empty(nn.Module):
    def __init__(self, *_):
        super().__init__()

number = 3
"""


@pytest.fixture(autouse=True)
def module(workplace, monkeypatch, tmp_path):
    Path("own_parts.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_parts", None)


@pytest.mark.parametrize(
    ("option", "name", "sentence"),
    [
        ("conditioning", "Absent", "expected 'Absent' in the module 'own_parts'"),
        ("conditioning", "number", "expected a class for the conditioning scheme"),
        ("conditioning", "Nothing", "no attribute 'classes'"),
        ("conditioning", "Broken", "found ValueError: no idea"),
        ("conditioning", "Silent", "give a preimage.Condition, found NoneType"),
        ("conditioning", "Loose", "a target of shape (2, 3) for 2 labels, found (2,)"),
        ("generator", "Absent", "expected 'Absent' in the module 'own_parts'"),
        ("generator", "number", "expected a class for the generator"),
        ("generator", "Empty", "derive it from preimage.generator.ImageGenerator"),
        ("generator", "Wide", "images in [0, 1], found"),
        ("generator", "Flat", "images of shape (2, 1, 8, 8), found (2, 64)"),
        ("generator", "Forgetful", "list of the parameters that it drew anew, found NoneType"),
    ],
)
def test_what_does_not_fit_is_one_sentence(capsys, option, name, sentence):
    arguments = tiny.invert_arguments("run", f"--{option}", f"own_parts:{name}")
    assert main(arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error: expected" in said and sentence in said, said


def test_what_fits_does_what_its_parents_do():
    spec = ImageSpec(1, 12, 12)
    labels = torch.arange(9)
    schemes = [
        make_scheme(name, 9, plane_size(spec), 4.0, 2.0)
        for name in ("vector-matrix", "own_parts:Fine")
    ]
    conditions = [scheme(labels, torch.Generator().manual_seed(0)) for scheme in schemes]
    for one, other in zip(*conditions, strict=True):
        assert torch.equal(one, other)
    small = {"latent": 4, "width": 4}
    own = make_generator(spec, schemes[1], GeneratorConfig(**small, generator="own_parts:Whole"))
    usual = Generator(spec, schemes[0], GeneratorConfig(**small))
    assert own.training and own.state_dict().keys() == usual.state_dict().keys()


def test_the_folder_of_a_run_with_a_scheme_of_ones_own_has_a_plain_name(capsys):
    arguments = tiny.invert_arguments("x", "--conditioning", "own_parts:Fine", "--no-student")
    del arguments[arguments.index("--out") : arguments.index("--out") + 2]
    assert main(arguments) == 0
    folder = Path("runs/invert-tiny-build-paper-own_parts-Fine-0")
    assert main(["sample", str(folder), "--count", "3"]) == 0 and main(["show", str(folder)]) == 0


def test_the_seed_decides_all_weights_of_ones_own_generator():
    """Its restart is tried on a copy, or it would draw the same first layer for every seed."""
    spec = ImageSpec(1, 12, 12)
    scheme = make_scheme("vector", 3, plane_size(spec), 4.0, 2.0)
    config = GeneratorConfig(latent=4, width=4)

    def drawn(name, seed):
        torch.manual_seed(seed)
        return make_generator(spec, scheme, replace(config, generator=name)).state_dict()

    for seed in (0, 1):
        usual, own = drawn(None, seed), drawn("own_parts:Whole", seed)
        assert all(torch.equal(tensor, own[name]) for name, tensor in usual.items())
