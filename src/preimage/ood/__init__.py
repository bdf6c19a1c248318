"""Out-of-distribution detection: a classifier with one more class, *garbage*, grown by inversion.

>>> hardened = harden(train_images, HardenConfig())
>>> detector = Detector(hardened.classifier).fit(held_out_images)
>>> scores = detector.predict(images)

Larger scores mean more out-of-distribution, as in pytorch-ood.
"""

from __future__ import annotations

from preimage.ood.detector import Detector
from preimage.ood.hardening import Hardened, harden
from preimage.ood.recipe import FromModel, FromScratch

__all__ = ["Detector", "FromModel", "FromScratch", "Hardened", "harden"]
