"""How closely a network may fit its training images: first weights, dropout, DP-SGD."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from preimage.config import Fitting
from preimage.errors import PreimageError

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


@torch.no_grad()
def prepare(network: nn.Module, fitting: Fitting) -> None:
    """Scale the first layer's weights and set dropout, as the settings ask.

    Raises:
        PreimageError: for dropout in a network that has none.
    """
    first = next(m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    for parameter in first.parameters():
        parameter.mul_(fitting.first_scale)
    if fitting.dropout is None:
        return
    places = [module for module in network.modules() if isinstance(module, _DROPOUT)]
    if not places:
        raise PreimageError(
            "expected an architecture with dropout for --dropout, found one without; choose mlp, "
            "cnn, cnn-deep or vit with --arch"
        )
    for place in places:
        place.p = fitting.dropout


def check_private(fitting: Fitting, precision: str) -> None:
    """Refuse DP-SGD with gradients that 16-mixed has scaled, which it would clip as they are."""
    if fitting.dp_noise is not None and precision == "16-mixed":
        raise PreimageError(
            "expected --precision bf16-mixed or 32-true with --dp-noise, found 16-mixed, which "
            "scales the gradients that are clipped; choose one of those"
        )


@contextmanager
def private(
    network: nn.Module, optimizer: Any, fitting: Fitting, batch: int
) -> Iterator[tuple[nn.Module, Any]]:
    """Network and optimiser of DP-SGD (Abadi et al. 2016, algorithm 1), where it is asked for.

    Each image's gradient is clipped and the sum gets Gaussian noise, from PyTorch's global random
    state. The network is afterwards without a hook.

    Args:
        network: what is to learn.
        optimizer: of its weights.
        fitting: the settings.
        batch: images a step.

    Raises:
        PreimageError: where Opacus is missing, or cannot take the gradients of single images.
    """
    if fitting.dp_noise is None:
        yield network, optimizer
        return
    opacus = _opacus()
    if opacus.validators.ModuleValidator.validate(network.train()):
        raise PreimageError(
            "expected a network whose images do not meet in a layer for --dp-noise, found batch "
            "norm or attention; choose mlp with --arch"
        )
    model = opacus.GradSampleModule(network)
    try:
        yield (
            model,
            opacus.optimizers.DPOptimizer(
                optimizer,
                noise_multiplier=fitting.dp_noise,
                max_grad_norm=fitting.dp_clip,
                expected_batch_size=batch,
            ),
        )
    finally:
        model.to_standard_module()


def privacy_spent(fitting: Fitting, images: int, batch: int, steps: int) -> float | None:
    """Epsilon of (epsilon, 1/images)-differential privacy after some steps; None without DP-SGD.

    Renyi accounting (Mironov et al. 2019) as if every batch were a Poisson sample, as is usual.

    Args:
        fitting: the settings.
        images: that were trained on.
        batch: images a step.
        steps: of training.
    """
    if fitting.dp_noise is None:
        return None
    accountant = _opacus().accountants.RDPAccountant()
    accountant.history = [(fitting.dp_noise, min(1.0, batch / images), steps)]
    return float(accountant.get_epsilon(delta=1 / images))


def _opacus() -> Any:
    try:
        return importlib.import_module("opacus")
    except ImportError as error:
        raise PreimageError(
            f"expected the package opacus for --dp-noise, found that it does not import ({error}); "
            "install it with: pip install opacus"
        ) from error
