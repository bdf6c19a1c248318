"""The adapter round a user's network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from preimage.classifier import Classifier, frozen
from preimage.config import GeneratorConfig, InvertConfig
from preimage.errors import PreimageError
from preimage.loop import invert
from preimage.types import ImageSpec

SPEC = ImageSpec(1, 8, 8)


class Net(nn.Module):
    """Two linear layers, one of them decoy, and a buffer that counts."""

    def __init__(self, classes: int = 3, fail: bool = False):
        super().__init__()
        self.decoy = nn.Linear(64, 5)
        self.hidden = nn.Linear(64, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, classes)
        self.register_buffer("calls", torch.zeros(()))
        self.fail = fail

    def forward(self, images):
        self.calls += 1
        hidden = torch.relu(self.norm(self.hidden(images.flatten(1))))
        if self.fail:
            raise RuntimeError("out of luck")
        return self.head(hidden)


def test_features_are_the_input_of_the_last_linear_layer_that_runs():
    network = Net()
    classifier = Classifier(network, SPEC)
    images = torch.rand(4, 1, 8, 8)
    with frozen(classifier):
        answer = classifier(images)
        hidden = torch.relu(network.norm(network.hidden(images.flatten(1))))
        torch.testing.assert_close(answer.features, hidden)
        torch.testing.assert_close(answer.logits, network.head(hidden))
    assert (classifier.classes, classifier.feature_size) == (3, 6)


def test_a_named_feature_layer_is_taken():
    classifier = Classifier(Net(), SPEC, feature_layer="hidden")
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(classifier.eval()(images).features, images.flatten(1))
    with pytest.raises(PreimageError, match="decoy"):
        Classifier(Net(), SPEC, feature_layer="decoy")
    with pytest.raises(PreimageError, match="nothing"):
        Classifier(Net(), SPEC, feature_layer="nothing")


def test_normalisation_is_applied_once_and_per_channel():
    spec = ImageSpec(2, 8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(128, 2)).eval()
    classifier = Classifier(network, spec, mean=[0.5, 0.25], std=[0.5, 2.0])
    images = torch.rand(3, 2, 8, 8)
    wanted = torch.stack([(images[:, 0] - 0.5) / 0.5, (images[:, 1] - 0.25) / 2.0], dim=1)
    torch.testing.assert_close(classifier(images).logits, network(wanted))


def test_freezing_puts_everything_back():
    network = Net().train()
    network.head.weight.requires_grad_(False)
    network.norm.eval()
    classifier = Classifier(network, SPEC)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ZeroDivisionError), frozen(classifier):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        classifier(torch.rand(4, 1, 8, 8))
        raise ZeroDivisionError
    assert network.training and not network.norm.training
    assert not network.head.weight.requires_grad and network.hidden.weight.requires_grad
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_no_hook_survives_an_exception():
    network = Net()
    classifier = Classifier(network, SPEC)
    network.fail = True
    with pytest.raises(RuntimeError, match="out of luck"):
        classifier(torch.rand(2, 1, 8, 8))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_on_another_device_is_wrapped_there(monkeypatch):
    """The meta device stands in for a GPU: it has shapes, but no values to check or compare."""

    def equal(one, other):
        assert one.device == other.device
        return True

    monkeypatch.setattr(torch, "equal", equal)
    for check in ("check_weights", "check_answer"):
        monkeypatch.setattr(f"preimage.classifier.{check}", lambda _: None)
    classifier = Classifier(Net().to("meta"), SPEC, mean=[0.5], std=[0.5])
    assert classifier.mean.device.type == classifier.std.device.type == "meta"
    assert (classifier.classes, classifier.feature_size) == (3, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_is_wrapped_there():
    classifier = Classifier(Net().cuda(), SPEC, mean=[0.5], std=[0.5])
    assert classifier.eval()(torch.rand(2, 1, 8, 8).cuda()).logits.is_cuda


def test_an_inversion_leaves_the_network_bit_identical():
    network = Net(classes=2).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    config = InvertConfig(steps=3, batch=8, check_every=1, generator=GeneratorConfig(4, 4))
    inversion = invert(network, config, image=(1, 8, 8))
    assert inversion.sample([0, 1, 0], seed=0).prediction.logits.shape == (3, 2)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.training for module in network.modules())


class Odd(nn.Module):
    """Returns whatever it is given."""

    def __init__(self, answer):
        super().__init__()
        self.layer, self.answer = nn.Linear(64, 3), answer

    def forward(self, images):
        return self.answer(self.layer(images.flatten(1)))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda logits: logits[:, :1], "at least 2 classes, found 1"),
        (lambda logits: logits[:, 0], r"shape \(2, K\)"),
        (lambda logits: logits[None], r"shape \(2, K\)"),
        (lambda logits: {"logits": logits}, "tensor of logits"),
        (lambda logits: logits * float("nan"), "finite logits"),
        (lambda logits: logits.softmax(1), "found probabilities"),
        (lambda logits: logits.bfloat16().softmax(1), "found probabilities"),
    ],
)
def test_an_answer_that_is_no_logits_is_told(answer, sentence):
    with pytest.raises(PreimageError, match=sentence):
        Classifier(Odd(answer), SPEC)


def test_other_misfits_are_told():
    with pytest.raises(PreimageError, match="8 x 8"):
        Classifier(Net(), ImageSpec(1, 7, 8))
    with pytest.raises(PreimageError, match="channel"):
        Classifier(Net(), ImageSpec(0, 8, 8))
    with pytest.raises(PreimageError, match="3 values of mean"):
        Classifier(Net(), ImageSpec(3, 8, 8), mean=[0.5, 0.5])
    with pytest.raises(PreimageError, match="std above 0"):
        Classifier(Net(), SPEC, std=[0.0])
    with pytest.raises(PreimageError, match="runs on 2 images"):
        Classifier(Net(), ImageSpec(3, 9, 9))
    with pytest.raises(PreimageError, match="linear layer"):
        Classifier(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), SPEC)
    broken = Net()
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    with pytest.raises(PreimageError, match=r"weight 'head\.bias'"):
        Classifier(broken, SPEC)


class Named(Net):
    """Calls its layers by the names of their arguments."""

    def forward(self, images):
        hidden = self.norm(input=self.hidden(input=images.flatten(1)))
        return self.head(input=torch.relu(hidden))


def test_layers_that_are_called_by_name_are_seen():
    classifier = Classifier(Named(), SPEC)
    assert classifier.feature_layer == "head" and classifier.feature_size == 6
    with frozen(classifier):
        prediction, layers = classifier.observe(torch.rand(5, *SPEC.shape))
    assert prediction.features.shape == (5, 6) and [len(part.values) for part in layers] == [5]


def test_of_a_compiled_network_the_layers_are_seen():
    network = Net()
    compiled = torch.compile(network, backend="eager")
    compiled(torch.rand(2, *SPEC.shape))
    classifier = Classifier(compiled, SPEC)
    with frozen(classifier):
        prediction, layers = classifier.observe(torch.rand(5, *SPEC.shape))
    assert len(layers) == len(classifier.batch_norms()) == 1 and prediction.features.shape == (5, 6)
