"""The inputs of an inversion's generators as something to move and to mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from preimage.classifier import Classifier, frozen
from preimage.drawing import at_once
from preimage.generator import Noise
from preimage.inversion import Inversion, drawn_by
from preimage.runtime import channels_last, stream
from preimage.types import Condition, Prediction

Loss = Callable[[Tensor, Prediction], Tensor]
"""Row numbers (B,) and the classifier's answer, on the CPU, to a loss for each row (B,)."""

_BATCH = 64


class Codes:
    """One code for each row: latent, condition, dropout's numbers and whose turn it is.

    Args:
        inversion: whose generators draw the images; with its classifier.
        noise: (B, ...) all but the condition.
        condition: (B, ...).
    """

    def __init__(self, inversion: Inversion, noise: Noise, condition: Condition):
        self.inversion, self.noise, self.condition = inversion, noise, condition

    @classmethod
    def draw(cls, inversion: Inversion, labels: Tensor, seed: int) -> Codes:
        """The codes that :meth:`Inversion.sample` would use."""
        return cls(inversion, *inversion.draw(labels, stream("sample", seed)))

    def rows(self, index: Tensor | slice) -> Codes:
        """The codes of these rows."""
        return Codes(self.inversion, self.noise.rows(index), self.condition.rows(index))

    def asked(self, other: Codes) -> Codes:
        """These latents with another's condition."""
        return Codes(self.inversion, self.noise, other.condition)

    def chosen(self, mask: Tensor, other: Codes) -> Codes:
        """These codes where `mask` (B,) is true, another's where it is not."""
        return self.mixed(other, (~mask).float())

    def mixed(self, other: Codes, weight: float | Tensor) -> Codes:
        """The straight line to another's latents and conditions: 0 is here, 1 is there.

        Dropout's numbers and the generator stay, so that the images change smoothly.

        Args:
            other: as many codes.
            weight: one for all, or (B,).
        """
        latent = _line(self.noise.latent, other.noise.latent, weight)
        assert latent is not None
        noise = self.noise._replace(latent=latent)
        here, there = self.condition, other.condition
        vector = _line(here.vector, there.vector, weight)
        planes = _line(here.planes, there.planes, weight)
        return Codes(self.inversion, noise, here._replace(vector=vector, planes=planes))

    def images(self) -> Tensor:
        """(B, C, H, W) in [0, 1], with a gradient to the codes where these ask for one."""
        members = [*self.inversion.bank, self.inversion.generator]
        turn = (self.noise.member * len(members)).long().clamp_max(len(members) - 1)
        parts, places = [], []
        for i, member in enumerate(members):
            mine = (turn == i).nonzero().flatten()
            for rows in mine.split(at_once(self.inversion.spec, _BATCH)):
                if len(rows):
                    parts.append(drawn_by(member, self.noise.rows(rows), self.condition.rows(rows)))
                    places.append(rows)
        images = torch.cat(parts)
        return images[torch.cat(places).argsort()]

    def moved(
        self,
        classifier: Classifier,
        loss: Loss,
        steps: int,
        lr: float,
    ) -> Codes:
        """Go downhill in latent and condition by Adam; every row on its own."""
        rows = torch.arange(len(self.noise.latent)).split(_BATCH)
        parts = [
            self.rows(part)._moved(classifier, partial(loss, part), steps, lr) for part in rows
        ]
        return _joined(parts)

    def _moved(
        self,
        classifier: Classifier,
        loss: Callable[[Prediction], Tensor],
        steps: int,
        lr: float,
    ) -> Codes:
        free = {
            name: value.clone().requires_grad_()
            for name, value in (
                ("latent", self.noise.latent),
                ("vector", self.condition.vector),
                ("planes", self.condition.planes),
            )
            if value is not None
        }
        adam = torch.optim.Adam(free.values(), lr=lr)
        with _still(self.inversion, classifier):
            for step in range(steps):
                # the last steps are small, to land on a point and not swing about it
                adam.param_groups[0]["lr"] = lr * (1 - step / steps)
                adam.zero_grad()
                values = loss(_asked(classifier, self._with(free).images()))
                values[torch.isfinite(values)].sum().backward()
                adam.step()
        return self._with({name: value.detach() for name, value in free.items()})

    def _with(self, free: dict[str, Tensor]) -> Codes:
        return Codes(
            self.inversion,
            self.noise._replace(latent=free["latent"]),
            self.condition._replace(vector=free.get("vector"), planes=free.get("planes")),
        )


def _asked(classifier: Classifier, images: Tensor) -> Prediction:
    """The answer, on the CPU as the codes are, with its gradient, wherever the classifier is."""
    answer = classifier(channels_last(images.to(classifier.mean.device)))
    return Prediction(*(part.cpu() for part in answer))


def _line(here: Tensor | None, there: Tensor | None, weight: float | Tensor) -> Tensor | None:
    if here is None or there is None:
        return None
    if isinstance(weight, Tensor):
        weight = weight.view(-1, *[1] * (here.dim() - 1)).expand_as(here)
    return torch.lerp(here, there, weight)


def _joined(parts: list[Codes]) -> Codes:
    noise = Noise(*(torch.cat(column) for column in zip(*(p.noise for p in parts), strict=True)))
    columns = zip(*(p.condition for p in parts), strict=True)
    condition = Condition(*(None if c[0] is None else torch.cat(c) for c in columns))  # type: ignore[arg-type]
    return Codes(parts[0].inversion, noise, condition)


@contextmanager
def _still(inversion: Inversion, classifier: Classifier) -> Iterator[None]:
    """Neither generators nor classifier learn."""
    generators: list[nn.Module] = [*inversion.bank, inversion.generator]
    before = [[p.requires_grad for p in g.parameters()] for g in generators]
    for generator in generators:
        generator.requires_grad_(False)
    try:
        with frozen(classifier):
            yield
    finally:
        for generator, flags in zip(generators, before, strict=True):
            for parameter, flag in zip(generator.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
