"""RandAugment on Pillow's images: (rng, image) -> image.

Source: RandAugment (arXiv 1909.13719); operations, ranges and the text of a policy are those of timm
(timm/data/auto_augment.py, 1.0.31). What moves is filtered as the crop is: timm's `create_transform`, through which the
reference goes with `interpolation="bicubic"`, hands the crop's filter on to the policy.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

HIGHEST = 10  # level
RESAMPLING = Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True)
class Operation:
    """A row of OPERATIONS.

    Args:
        run: (image, value, canvas) -> image; `canvas` is what Pillow's geometric functions take besides.
        value: (strength 0..1, sign) -> value.
        increasing: the same for increasing policies, in which more strength always changes more; None: `value`.
    """

    run: Callable
    value: Callable = lambda strength, sign: None
    increasing: Callable | None = None


def enhanced(kind):
    return Operation(
        run=lambda image, factor, canvas: kind(image).enhance(factor),
        value=lambda strength, sign: 0.1 + 1.8 * strength,
        increasing=lambda strength, sign: max(0.1, 1.0 + sign * 0.9 * strength),
    )


def moved(matrix, most):
    """`matrix` is of (value, width, height)."""

    def run(image, value, canvas):
        return image.transform(image.size, Image.Transform.AFFINE, matrix(value, *image.size), **canvas)

    return Operation(run, lambda strength, sign: sign * most * strength)


def posterized(image, bits, canvas):
    """Keeps the highest bits of each value; with none the image is black, as it was in older Pillow (13 refuses)."""
    return ImageOps.posterize(image, bits) if bits else image.point(lambda value: 0)


def partly_brightened(image, added, canvas):
    """Adds to values below 128."""
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


OPERATIONS = {
    "autocontrast": Operation(lambda image, value, canvas: ImageOps.autocontrast(image)),
    "equalize": Operation(lambda image, value, canvas: ImageOps.equalize(image)),
    "invert": Operation(lambda image, value, canvas: ImageOps.invert(image)),
    "rotate": Operation(
        lambda image, degrees, canvas: image.rotate(degrees, **canvas), lambda strength, sign: sign * 30 * strength
    ),
    "posterize": Operation(
        posterized, lambda strength, sign: int(4 * strength), lambda strength, sign: 4 - int(4 * strength)
    ),
    "solarize": Operation(
        lambda image, threshold, canvas: ImageOps.solarize(image, threshold),
        lambda strength, sign: int(256 * strength),
        lambda strength, sign: 256 - int(256 * strength),
    ),
    "solarize_add": Operation(partly_brightened, lambda strength, sign: int(110 * strength)),
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
    "shear_x": moved(lambda value, width, height: (1, value, 0, 0, 1, 0), 0.3),
    "shear_y": moved(lambda value, width, height: (1, 0, 0, value, 1, 0), 0.3),
    "translate_x": moved(lambda value, width, height: (1, 0, value * width, 0, 1, 0), 0.45),
    "translate_y": moved(lambda value, width, height: (1, 0, 0, 0, 1, value * height), 0.45),
}
NAMES = tuple(OPERATIONS)

WORDS = {  # of a policy's text: field, type, smallest and largest value
    "m": ("magnitude", float, 0, HIGHEST),
    "mstd": ("deviation", float, 0, 100),
    "inc": ("increasing", int, 0, 1),
    "n": ("count", int, 1, 100),
    "p": ("probability", float, 0, 1),
}
RULE = (
    "randaugment must be rand with any of m (level, 0..10), mstd (its deviation), inc (0 or 1), n (operations, from 1)"
    " and p (chance of each, 0..1), such as rand-m9-mstd0.5-inc1, or none"
)


def _fits(word, number):
    _, kind, smallest, largest = WORDS.get(word, (None, float, 1, 0))
    return smallest <= float(number) <= largest and (kind is float or number.isdecimal())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Some operations of equal chance, one after the other, each left out or applied.

    Args:
        magnitude: level of strength, 0..10.
        deviation: of the normal distribution around it that the level is drawn from, and clipped to 0..10.
        increasing: use the operations' `increasing` values.
        count: operations of a picture.
        probability: that one is applied.
        fill: the grey level in each channel of what comes into the picture from outside.
    """

    magnitude: float = HIGHEST
    deviation: float = 0.0
    increasing: bool = False
    count: int = 2
    probability: float = 0.5
    fill: tuple = (128, 128, 128)

    @classmethod
    def parse(cls, text, **options):
        """That of a policy's text, such as rand-m9-mstd0.5-inc1."""
        first, *parts = text.split("-")
        words = [re.fullmatch(r"([a-z]+)(\d+\.?\d*)", part) for part in parts]
        numbers = dict(word.groups() for word in words if word)
        if first != "rand" or len(numbers) < len(parts) or not all(map(_fits, numbers, numbers.values())):
            raise ValueError(f"{RULE}. Received: {text!r}.")
        fields = {WORDS[word][0]: WORDS[word][1](number) for word, number in numbers.items()}
        return cls(**fields, **options)

    def draw(self, rng):
        """[(name, value)] of the operations that one picture goes through."""
        which = rng.integers(len(NAMES), size=self.count).tolist()
        levels = np.clip(self.magnitude + self.deviation * rng.standard_normal(self.count), 0, HIGHEST)
        chances = rng.random((self.count, 2)).tolist()
        drawn = zip((NAMES[k] for k in which), levels.tolist(), chances, strict=True)
        return [
            (name, self.value(name, level, 1 if up < 0.5 else -1))
            for name, level, (applied, up) in drawn
            if applied < self.probability
        ]

    def value(self, name, level, sign):
        """What an operation takes at a level."""
        operation = OPERATIONS[name]
        return (self.increasing and operation.increasing or operation.value)(level / HIGHEST, sign)

    def apply(self, image, name, value):
        fill = self.fill if image.mode == "RGB" else self.fill[0]
        return OPERATIONS[name].run(image, value, {"resample": RESAMPLING, "fillcolor": fill})

    def __call__(self, rng, image):
        for operation in self.draw(rng):
            image = self.apply(image, *operation)
        return image
