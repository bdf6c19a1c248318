"""Two classifiers that the project did not make, for the audits: trained a little, on one's own.

    python benchmarks/foreign.py --out runs/foreign

Leaves resnet18.safetensors, torchvision's ResNet-18 from random weights on CIFAR-10, and
fashion.pt2, a plain convolutional network on Fashion-MNIST as a torch.export archive.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from preimage import load
from preimage.data import ImageSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS, BATCH = 500, 128


def main() -> None:
    """Train both and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/foreign"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = resnet18(num_classes=10)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    learn(network, load("cifar10", "train"), lambda images: (images - mean) / std)
    save_file(network.state_dict(), out / "resnet18.safetensors")
    plain = convolutional()
    learn(plain, load("fashion_mnist", "train"), lambda images: images)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(plain, (torch.rand(2, 1, 28, 28),), dynamic_shapes=shapes)
    torch.export.save(program, out / "fashion.pt2")


def convolutional() -> nn.Module:
    """Two convolutions and two linear layers, no batch norm."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def learn(network: nn.Module, data: ImageSet, change: Callable[[Tensor], Tensor]) -> None:
    """A few hundred steps of AdamW on random batches; ends in evaluation mode."""
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    random = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(data), (BATCH,), generator=random)
        loss = F.cross_entropy(network(change(data.floats(rows))), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


if __name__ == "__main__":
    main()
