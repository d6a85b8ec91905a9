"""Mixup and cutmix: (rng of the step, batch) -> batch."""

import dataclasses
import math

import numpy as np

SWITCH = 0.5  # chance of cutmix where both are on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes the pictures 2k and 2k + 1 of a batch with each other, all of them alike.

    Mixup: share * picture + (1 - share) * partner, share from Beta(mixup, mixup). Cutmix: a box of the partner, of
    sqrt(1 - share) of each side, share from Beta(cutmix, cutmix), around a place in the picture; `share` becomes that
    of the pixels outside, since the box may reach over the border.

    Args:
        mixup, cutmix: alpha; 0: not this one. Where both are on, half of the batches get cutmix.
    Shapes:
        images (B, H, W, C) of any type -> float32, neither rounded nor clipped. Added: `partner_labels` int32 (B,)
        and `share` float32 (B,), so that a target is share * label + (1 - share) * partner's label.
    Source:
        arXiv 1710.09412 and 1905.04899; timm/data/mixup.py, whose partner is the picture at the same place of the
        reversed batch: the same, since a batch has no order, and any even part of a batch can be mixed by itself.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def draw(self, rng, size):
        """(share, box): box is the window (top, left, height, width) of cutmix, or None for mixup."""
        cuts = self.cutmix > 0 and (self.mixup == 0 or rng.random() < SWITCH)
        alpha = self.cutmix if cuts else self.mixup
        share = rng.beta(alpha, alpha)
        if not cuts:
            return share, None
        ends = []
        for side in size:
            centre, length = int(rng.integers(side)), int(side * math.sqrt(1 - share))
            ends.append((max(0, centre - length // 2), min(side, centre + (length + 1) // 2)))
        (top, bottom), (left, right) = ends
        height, width = bottom - top, right - left
        return 1 - height * width / math.prod(size), (top, left, height, width)

    def __call__(self, rng, batch):
        share, box = self.draw(rng, batch["images"].shape[1:3])
        labels = batch["labels"]
        return {
            **batch,
            "images": blended(batch["images"], share) if box is None else exchanged(batch["images"], box),
            "partner_labels": labels[np.arange(len(labels)) ^ 1],
            "share": np.full(len(labels), share, "float32"),
        }


def blended(images, share):
    """float32 images, each with 1 - share of its partner."""
    mixed = images.astype("float32")
    for k in range(0, len(images), 2):  # pair by pair, which the processor's cache holds
        moved = np.float32(1 - share) * (mixed[k + 1] - mixed[k])
        mixed[k] += moved
        mixed[k + 1] -= moved
    return mixed


def exchanged(images, box):
    """float32 images, each with its partner's pixels in the box."""
    top, left, height, width = box
    inside = slice(top, top + height), slice(left, left + width)
    mixed = images.astype("float32")
    for k in range(0, len(images), 2):
        mixed[k][inside], mixed[k + 1][inside] = images[k + 1][inside], images[k][inside]
    return mixed
