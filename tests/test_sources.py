"""Classifiers by name and from files, none of which may run code."""

from __future__ import annotations

import os
import sys
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from preimage.classifier import frozen
from preimage.config import ModelConfig
from preimage.digest import classifier_digest
from preimage.errors import PreimageError
from preimage.sources import WithWeights, load_classifier
from preimage.types import ImageSpec
from preimage.zoo.architectures import build

SPEC = ImageSpec(3, 12, 12)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def network():
    torch.manual_seed(3)
    return build("cnn", SPEC, 4, 8).eval()


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A user's module in the working folder."""
    (tmp_path / "users_models.py").write_text(
        "from preimage.types import ImageSpec\n"
        "from preimage.zoo.architectures import build\n"
        "def make(): return build('cnn', ImageSpec(3, 12, 12), 4, 8)\n"
        "def whole():\n"
        "    from preimage.classifier import Classifier\n"
        "    return Classifier(make(), ImageSpec(3, 12, 12), mean=(0.5,))\n"
        "def fails(): raise ValueError('no such thing')\n"
        "def quits(): raise SystemExit(3)\n"
        "def number(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    return "users_models:make"


def answers(config: ModelConfig):
    classifier = load_classifier(config)
    with frozen(classifier):
        return classifier(torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)))


def expected(network):
    return network(torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped"])
def test_factory_with_checkpoint(form, factory, network, tmp_path):
    state = network.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "plain":
        torch.save(state, path)
    else:
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": wrapped, "epoch": 3}, path)
    answer = answers(ModelConfig(factory, checkpoint=str(path), image=SPEC.shape))
    torch.testing.assert_close(answer.logits, expected(network))


def test_a_pickle_with_code_is_refused_and_not_run(factory, tmp_path):
    torch.save({"state_dict": Malicious(tmp_path / "made")}, tmp_path / "w.pt")
    with pytest.raises(PreimageError, match="never run"):
        load_classifier(ModelConfig(factory, checkpoint=str(tmp_path / "w.pt"), image=SPEC.shape))
    assert not (tmp_path / "made").exists()


def test_checkpoints_that_do_not_fit_are_told(factory, network, tmp_path):
    state = network.state_dict()
    path = tmp_path / "w.safetensors"

    def sentence() -> str:
        with pytest.raises(PreimageError) as caught:
            load_classifier(ModelConfig(factory, checkpoint=str(path), image=SPEC.shape))
        return str(caught.value)

    assert "no" in sentence()
    save_file({**state, "head.bias": torch.zeros(5)}, path)
    assert "head.bias is (5,) instead of (4,)" in sentence()
    save_file({k: v for k, v in state.items() if k != "head.bias"}, path)
    assert "1 missing (first: head.bias)" in sentence()
    save_file({**state, "more": torch.zeros(1)}, path)
    assert "1 unknown (first: more)" in sentence()
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in sentence()


def test_factories_that_fail_are_told(factory):
    for name, sentence in (
        ("users_models:fails", "no such thing"),
        ("users_models:quits", "SystemExit: 3"),
        ("users_models:number", "torch.nn.Module"),
        ("users_models:absent", "absent"),
        ("no_such_module_x:make", "no_such_module_x"),
    ):
        with pytest.raises(PreimageError, match=sentence):
            load_classifier(ModelConfig(name, image=SPEC.shape))
    with pytest.raises(PreimageError, match="image shape"):
        load_classifier(ModelConfig(factory))


@pytest.mark.parametrize(
    "setting",
    [
        {"checkpoint": "w.pt"},
        {"image": SPEC.shape},
        {"mean": (0.1,)},
        {"std": (0.1,)},
        {"feature_layer": "head"},
        {"classes": 4},
        {"class_names": "a,b,c,d"},
    ],
)
def test_settings_that_a_factory_decides_are_refused(setting, factory):
    name = next(iter(setting)).replace("_", "-")
    with pytest.raises(PreimageError, match=f"no --{name} .*the factory decides"):
        load_classifier(ModelConfig("users_models:whole", **setting))
    assert load_classifier("users_models:whole").classes == 4


def test_classes_of_a_factory_are_refused_for_a_plain_module_too(factory):
    with pytest.raises(PreimageError, match="no --classes"):
        load_classifier(ModelConfig(factory, image=SPEC.shape, classes=4))


def export(network, path, *, dynamic=True):
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(network, (torch.rand(2, 3, 12, 12),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return str(path)


class NamesDevices(nn.Module):
    """Exported, it has the device of its export in operators, an assertion and a constant."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        images = images.float() + torch.arange(12) + torch.ones(12, 1, device=images.device)
        return self.head((images * torch.tensor([2.0, 3.0, 4.0])[:, None, None]).mean((2, 3)))


def test_an_exported_archive_runs_where_it_is_sent(tmp_path):
    config = ModelConfig(export(NamesDevices(), tmp_path / "m.pt2"))
    there = torch.device("meta")
    classifier = load_classifier(config).to(there)
    assert classifier(torch.rand(3, 3, 12, 12, device=there)).logits.device == there


def test_an_exported_archive_answers_as_the_network(network, tmp_path):
    answer = answers(ModelConfig(export(network, tmp_path / "m.pt2")))
    torch.testing.assert_close(answer.logits, expected(network))
    assert answer.features.shape == (3, network.head.in_features)
    torch.testing.assert_close(network.head(answer.features), answer.logits)


def test_archives_that_do_not_fit_are_told(network, tmp_path):
    with pytest.raises(PreimageError, match="any batch size"):
        load_classifier(export(network, tmp_path / "m.pt2", dynamic=False))
    (tmp_path / "n.pt2").write_text("nothing")
    with pytest.raises(PreimageError, match="another kind of file"):
        load_classifier(str(tmp_path / "n.pt2"))
    with pytest.raises(PreimageError, match="no file"):
        load_classifier(str(tmp_path / "absent.pt2"))


class WithFeatures(torch.nn.Module):
    """Returns its features before its logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return images.flatten(1), self.inner(images)


def test_an_archive_of_several_outputs_is_refused(network, tmp_path):
    with pytest.raises(PreimageError, match=r"logits .* alone, found one of 2 outputs"):
        load_classifier(export(WithFeatures(network), tmp_path / "m.pt2"))


def test_code_in_an_archive_is_refused_and_not_run(network, tmp_path):
    original, changed = tmp_path / "m.pt2", tmp_path / "bad.pt2"
    export(network, original)
    torch.save(Malicious(tmp_path / "made"), tmp_path / "inputs.pt")
    poison = (tmp_path / "inputs.pt").read_bytes()
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(changed, "w") as target:
        names = source.namelist()
        for name in names:
            inputs = name.endswith("sample_inputs/model.pt")
            target.writestr(name, poison if inputs else source.read(name))
    assert any(name.endswith("sample_inputs/model.pt") for name in names)
    with pytest.raises(PreimageError, match="cannot be read"):
        load_classifier(str(changed))
    assert not (tmp_path / "made").exists()
    with zipfile.ZipFile(original, "a") as archive:
        archive.writestr("m/data/constants/custom_obj_0", b"pickle")
    with pytest.raises(PreimageError, match="never loaded"):
        load_classifier(str(original))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ModelConfig("torchvision:fasterrcnn_resnet50_fpn"), "which is for another task"),
        (ModelConfig("torchvision:fcn_resnet50", classes=3), "which is for another task"),
        (ModelConfig("torchvision:resnet18", classes=-3), "--classes of at least 2, found -3"),
        (ModelConfig("torchvision:resnet19"), "that torchvision knows"),
    ],
)
def test_what_torchvision_has_no_classifier_for_is_told_and_nothing_is_fetched(
    config, said, monkeypatch, tmp_path
):
    pytest.importorskip("torchvision")
    fetched = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **_: fetched.append(a))
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(PreimageError, match=said):
        load_classifier(replace(config, checkpoint=str(tmp_path / "w.safetensors")))
    assert fetched == []


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_libraries_by_name(library, tmp_path):
    module = pytest.importorskip(library)
    if library == "torchvision":
        network = module.models.resnet18(num_classes=5)
    else:
        network = module.create_model("resnet18", num_classes=5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    config = ModelConfig(
        f"{library}:resnet18",
        checkpoint=str(tmp_path / "w.safetensors"),
        classes=5,
        image=(3, 32, 32),
    )
    classifier = load_classifier(config)
    assert (classifier.classes, classifier.feature_size) == (5, 512)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    asked = {"classes": 5, "image": (3, 32, 32)}
    given = load_classifier(
        WithWeights(f"{library}:resnet18", weights=network.state_dict(), **asked)
    )
    assert classifier_digest(given) == classifier_digest(classifier)
    with pytest.raises(PreimageError, match="weights"):
        load_classifier(ModelConfig(f"{library}:resnet18"))
    with pytest.raises(PreimageError, match="knows"):
        load_classifier(ModelConfig(f"{library}:resnet_x", checkpoint="w.safetensors"))


@pytest.mark.parametrize("kind", ["factory", "pt2", "torchvision", "timm"])
def test_classes_are_named_by_a_list_or_a_file(kind, factory, network, tmp_path):
    config = ModelConfig(factory, image=SPEC.shape)
    if kind == "pt2":
        config = ModelConfig(export(network, tmp_path / "m.pt2"))
    elif kind != "factory":
        library = pytest.importorskip(kind)
        made = library.models.resnet18 if kind == "torchvision" else library.create_model
        named = () if kind == "torchvision" else ("resnet18",)
        save_file(made(*named, num_classes=4).state_dict(), tmp_path / "w.safetensors")
        weights = str(tmp_path / "w.safetensors")
        config = ModelConfig(f"{kind}:resnet18", weights, (3, 32, 32), classes=4)
    assert load_classifier(config).class_names == ("0", "1", "2", "3")
    names = ("cat", "a dog, or two", "Łoś", "2")
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    from_file = replace(config, class_names=str(tmp_path / "names.txt"))
    assert load_classifier(from_file).class_names == names
    from_list = replace(config, class_names="cat, dog,elk,2")
    assert load_classifier(from_list).class_names == ("cat", "dog", "elk", "2")


@pytest.mark.parametrize("names", ["a,b,c", "names.txt", "a,b,c,", "a,b,c,a", "n," * 300])
def test_class_names_that_do_not_fit_are_told(names, factory):
    with pytest.raises(PreimageError, match="expected 4 different class names for 'users_models"):
        load_classifier(ModelConfig(factory, image=SPEC.shape, class_names=names))


def test_class_names_in_another_encoding_are_told(factory, tmp_path):
    (tmp_path / "names.txt").write_bytes("Łoś".encode("utf-16"))
    with pytest.raises(PreimageError, match="UTF-8"):
        load_classifier(ModelConfig(factory, image=SPEC.shape, class_names="names.txt"))


def test_a_missing_library_is_named_as_the_registry_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PreimageError, match=r"pip install timm$"):
        load_classifier(ModelConfig("timm:resnet18", checkpoint="w.safetensors"))


def test_unknown_names_and_needless_settings_are_told():
    with pytest.raises(PreimageError, match="did you mean 'mnist'"):
        load_classifier("mnits")
    with pytest.raises(PreimageError, match="leave it out"):
        load_classifier(ModelConfig("mnist", image=(1, 28, 28)))
