"""Which pixels an answer rests on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from preimage.classifier import Classifier, frozen
from preimage.drawing import at_once
from preimage.errors import PreimageError

_STEPS, _BATCH = 24, 256
_FLOOR = 1e-12


def saliency(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) of the class's logit, from black.

    Args:
        classifier: of K classes.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64, the classes to explain.

    Returns:
        (N, H, W) in [-1, 1]: summed over channels, the largest of each image scaled to 1 or -1;
        above 0 speaks for the class.

    Raises:
        PreimageError: where captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise PreimageError(
            "expected the package captum for saliency, found that it does not import; install it "
            "with: pip install captum"
        ) from error
    device, most = classifier.mean.device, at_once(classifier.spec, _BATCH)
    with frozen(classifier):
        method = IntegratedGradients(_Logits(classifier))
        found = method.attribute(
            images.to(device), target=labels.to(device), n_steps=_STEPS, internal_batch_size=most
        )
    maps = found.detach().sum(1).float().cpu()
    return maps / maps.flatten(1).abs().amax(1).clamp_min(_FLOOR)[:, None, None]


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Grey images (N, 3, H, W) with what speaks for the class in orange, against it in blue."""
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.6 + 0.2
    strength = maps.abs()[:, None]
    orange, blue = torch.tensor([1.0, 0.55, 0.1]), torch.tensor([0.15, 0.45, 1.0])
    colour = torch.where(maps[:, None] > 0, orange.view(1, 3, 1, 1), blue.view(1, 3, 1, 1))
    return torch.lerp(grey, colour, strength)


class _Logits(nn.Module):
    """The classifier as captum wants it: a tensor in, a tensor out."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images).logits
        return logits
