"""`shapes`: a procedural set of labelled pictures that needs no file and no network.

Ten classes, 64x64 RGB. Every picture is a function of (seed, split, index) alone, so a set of any size is a prefix of a
larger one. Masks are decided at twice the resolution and averaged, which antialiases all edges.
"""

import numpy as np

CLASSES = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart", "arrow", "hexagon")
GROUND = len(CLASSES)  # the class of all other pixels in a label map
SIZE = 64
COUNTS = {"unlabelled": 4000, "train": 300, "test": 2000}
_STREAMS = {"unlabelled": 0, "train": 1, "test": 2}  # part of every picture's seed: splits share no picture
SMALL = 2  # at most so many lie over the shape of a picture of objects
_SCENE = SMALL + 1  # last number of the seed of how they lie; theirs are 1 .. SMALL

_FINE = 2 * SIZE
_BLOCK = 16  # pictures at a time: a map of a block (1 MB) stays in the cache
_TRIES = 20  # draws of the colours until shape and ground differ
_CONTRAST = 0.35
_GRADIENT, _STRIPES = 0.80, 0.92  # cumulative chances of gradient, stripes, checks
_CLUTTER, _OCCLUDER = 0.5, 0.15  # chances of a bar under and over the shape
_DRAWS = {  # name: how many uniform numbers a picture takes for it, in this order
    "radius": 1,
    "centre": 2,
    "rotation": 1,
    "clutter": 6,
    "occluder": 6,
    "patterns": 8,  # (shape, ground) x (kind, angle, cycles, phase)
    "bar_colours": 8,
    "colours": 16 * _TRIES,  # (shape, ground) x (first, second) x (grey level, three tints)
}


def shapes(count, split, seed=0, first=0):
    """The pictures first .. first + count - 1 of a split: (images uint8 (count, 64, 64, 3), labels int32 (count,)).

    Classes take turns, so `count` consecutive pictures are balanced to within one.
    """
    images, labels, _ = _all(count, split, seed, first)
    return images, labels


def shapes_with_maps(count, split, seed=0, first=0):
    """The same pictures with label maps (count, 64, 64) uint8: the class where its shape is seen, else GROUND."""
    images, labels, seen = _all(count, split, seed, first)
    return images, np.where(seen, labels[:, None, None], GROUND).astype("uint8")


def shapes_with_objects(count, split, seed=0, first=0):
    """The same pictures with up to SMALL smaller shapes over each, every one in a quarter of its own.

    Returns:
        (images uint8 (count, 64, 64, 3), [int32 (n,) classes of a picture, its own shape first], [bool (n, 64, 64)
        where each is seen]).
    """
    images, labels, seen = _all(count, split, seed, first)
    classes, masks = [[label] for label in labels], [[mask] for mask in seen]
    scenes = [_generator(seed, split, first + row, _SCENE) for row in range(count)]
    counts = np.array([rng.integers(0, SMALL + 1) for rng in scenes])
    quarters = np.stack([rng.permutation(4) for rng in scenes])
    over = np.stack([rng.integers(0, len(CLASSES), SMALL) for rng in scenes]).astype("int32")
    for number in range(SMALL):
        rows = np.flatnonzero(counts > number)
        uniform = lambda k: _uniform(seed, split, first + int(rows[k]), number + 1)  # noqa: B023, E731
        small, small_seen = _drawn(over[rows, number], uniform)
        for k, row in enumerate(rows):
            mask = _lay_over(images[row], small[k], small_seen[k], quarters[row, number])
            masks[row] = [*(before & ~mask for before in masks[row]), mask]
            classes[row].append(over[row, number])
    return images, [np.array(found, "int32") for found in classes], [np.stack(found) for found in masks]


def _lay_over(image, small, seen, quarter):
    """Puts a shape, at half its size, into a quarter of an image; returns bool (64, 64), where it is seen now."""
    half = SIZE // 2
    share = seen.reshape(half, 2, half, 2).mean((1, 3))[..., None]
    colour = (small * seen[..., None]).reshape(half, 2, half, 2, 3).mean((1, 3))  # of the shape alone, by its share
    rows, columns = (slice(half * k, half * (k + 1)) for k in divmod(int(quarter), 2))
    image[rows, columns] = np.rint(colour + (1 - share) * image[rows, columns])
    mask = np.zeros((SIZE, SIZE), bool)
    mask[rows, columns] = share[..., 0] >= 0.5
    return mask


def _all(count, split, seed, first):
    """(images, labels, where the shape is seen)"""
    if split not in _STREAMS:
        raise ValueError(f"split must be one of {sorted(_STREAMS)}. Received: {split!r}")
    if count < 1:
        raise ValueError(f"a set of shapes needs at least one picture. Received: count={count!r}")
    labels = (np.arange(first, first + count) % len(CLASSES)).astype("int32")
    images, seen = _drawn(labels, lambda row: _uniform(seed, split, first + row))
    return images, labels, seen


def _drawn(labels, numbers):
    """(pictures of these classes, where the shapes are seen); `numbers` (row) are the uniform numbers of each."""
    images, seen = np.empty((len(labels), SIZE, SIZE, 3), "uint8"), np.empty((len(labels), SIZE, SIZE), bool)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), _BLOCK):
            rows = members[start : start + _BLOCK]
            images[rows], seen[rows] = _draw(label, [numbers(int(row)) for row in rows])
    return images, seen


def _uniform(seed, split, index, *layer):
    return _generator(seed, split, index, *layer).random(sum(_DRAWS.values()), "float32")


def _generator(seed, split, *numbers):
    return np.random.default_rng([seed, _STREAMS[split], *numbers])


def _draw(label, numbers):
    """One block of one class from their uniform numbers, (n, sum of _DRAWS): pictures, and where the shape is seen."""
    edges = np.cumsum(list(_DRAWS.values()))[:-1]
    draws = dict(zip(_DRAWS, np.split(np.stack(numbers), edges, axis=1), strict=True))
    shape_colours, ground_colours, shape_pattern, ground_pattern = _paint(draws)

    radius = 0.30 + 0.12 * draws["radius"][:, 0]
    centre = 0.5 + 0.24 * (draws["centre"] - 0.5)
    local = _Frame(centre, draws["rotation"][:, 0] - 0.5, radius)  # rotation in -.5 .. .5 rad
    shape = _INSIDE[CLASSES[label]](local).astype("float32")
    occluder = _bar(draws["occluder"], _OCCLUDER, centre, reach=0.15, length=(2.0, 2.0), width=(0.08, 0.14))
    clutter = _bar(
        draws["clutter"], _CLUTTER, np.full_like(centre, 0.5), reach=0.45, length=(0.25, 0.5), width=(0.05, 0.09)
    )

    # the four regions divide the picture, so a pixel is the sum of their colours by share
    shape *= 1 - occluder
    clutter *= (1 - occluder) * (1 - shape)
    ground = 1 - occluder - shape - clutter
    bars = draws["bar_colours"].reshape(-1, 2, 1, 4)
    layers = (
        (shape, shape_colours[:, 0]),
        (shape * shape_pattern, shape_colours[:, 1] - shape_colours[:, 0]),
        (ground, ground_colours[:, 0]),
        (ground * ground_pattern, ground_colours[:, 1] - ground_colours[:, 0]),
        (clutter, _colour(bars[:, 0])[:, 0]),
        (occluder, _colour(bars[:, 1])[:, 0]),
    )
    share = np.stack([_halve(region) for region, _ in layers], axis=-1)  # (n, 64, 64, 6)
    colour = np.stack([colour for _, colour in layers], axis=1)  # (n, 6, 3)
    picture = share.reshape(len(share), -1, len(layers)) @ colour
    return np.rint(255 * np.clip(picture, 0, 1)).astype("uint8").reshape(-1, SIZE, SIZE, 3), share[..., 0] >= 0.5


def _halve(fine):  # (n, 2h, 2w) -> (n, h, w)
    rows = fine[:, ::2] + fine[:, 1::2]
    return 0.25 * (rows[:, :, ::2] + rows[:, :, 1::2])


def _colour(numbers):  # (..., 4) -> (..., 3): a grey level and a tint of +-.1 for each channel
    return np.clip(numbers[..., :1] + 0.2 * (numbers[..., 1:] - 0.5), 0, 1)


def _paint(draws):
    """Colours (n, 2, 3) and patterns (n, 128, 128) of shape and ground: the first draw that differs enough."""
    kind, angle, cycles, phase = (draws["patterns"].reshape(-1, 2, 4)[:, :, k] for k in range(4))  # each (n, 2)
    reach = np.where(kind < _GRADIENT, 0.6, 0.5)  # how far the pattern runs towards the second colour
    colours = _colour(draws["colours"].reshape(-1, _TRIES, 2, 2, 4))  # (n, try, shape or ground, first or second, 3)
    mean = colours[:, :, :, 0] + (reach / 2)[:, None, :, None] * (colours[:, :, :, 1] - colours[:, :, :, 0])
    differ = np.abs(mean[:, :, 0] - mean[:, :, 1]).max(-1) >= _CONTRAST  # (n, try)
    differ[:, -1] = True  # the last try is taken as it comes
    chosen = colours[np.arange(len(colours)), differ.argmax(1)]  # (n, 2, 2, 3)
    patterns = [
        _pattern(kind[:, k], angle[:, k], cycles[:, k], phase[:, k]) * reach[:, k, None, None] for k in range(2)
    ]
    return chosen[:, 0], chosen[:, 1], patterns[0].astype("float32"), patterns[1].astype("float32")


def _pattern(kind, angle, cycles, phase):
    """Values 0..1: a ramp across the picture, stripes, or checks of 3 to 8 cycles."""
    turned = _Frame(np.full((len(kind), 2), 0.5), 2 * np.pi * angle, np.ones(len(kind)))
    span = np.abs(np.cos(2 * np.pi * angle)) + np.abs(np.sin(2 * np.pi * angle))
    values = turned.along(1, 0) / span[:, None, None].astype("float32") + 0.5
    rows = np.flatnonzero(kind >= _GRADIENT)
    if len(rows):
        across, count = turned.along(0, 1)[rows], (3 + 5 * cycles[rows])[:, None, None]
        first = np.floor(2 * (count * turned.along(1, 0)[rows] + phase[rows, None, None])) % 2
        second = np.floor(2 * (count * across + phase[rows, None, None])) % 2
        values[rows] = np.where((kind[rows] < _STRIPES)[:, None, None], first, first != second)
    return values


def _bar(numbers, chance, around, reach, length, width):
    """1 inside of a bar near `around`, 0 elsewhere; without a bar for the pictures beyond `chance`."""
    present, angle, x, y, long, wide = numbers.T
    frame = _Frame(around + 2 * reach * (np.stack([x, y], 1) - 0.5), np.pi * angle, np.ones(len(x)))
    half_long = (length[0] + (length[1] - length[0]) * long)[:, None, None] / 2
    half_wide = (width[0] + (width[1] - width[0]) * wide)[:, None, None] / 2
    inside = (np.abs(frame.along(1, 0)) < half_long) & (np.abs(frame.along(0, 1)) < half_wide)
    return (inside & (present < chance)[:, None, None]).astype("float32")


class _Frame:
    """Coordinates of n pictures about a centre, turned and divided by a radius; u to the right, v upwards."""

    def __init__(self, centre, angle, radius):
        self.centre, self.cos, self.sin = centre, np.cos(angle) / radius, np.sin(angle) / radius
        self.grid = (np.arange(_FINE) + 0.5) / _FINE  # of the width

    def along(self, a, b):
        """a * u + b * v, (n, 128, 128): linear, so it is the sum of a row and a column."""
        by_x, by_y = a * self.cos - b * self.sin, -(a * self.sin + b * self.cos)  # y runs downwards
        x, y = (self.grid[None] - self.centre[:, k, None] for k in range(2))
        return (by_x[:, None] * x).astype("float32")[:, None, :] + (by_y[:, None] * y).astype("float32")[:, :, None]

    def sides(self, count, apothem, start):
        """For each side of a regular polygon: whether a point is on its inner side."""
        for k in range(count):
            angle = start + 2 * np.pi * k / count
            yield self.along(np.cos(angle), np.sin(angle)) < apothem

    def polygon(self, count, apothem, start):
        return np.logical_and.reduce(list(self.sides(count, apothem, start)))

    def box(self, u, v):
        return (np.abs(self.along(1, 0)) < u) & (np.abs(self.along(0, 1)) < v)

    def disc(self, radius, u=0.0, v=0.0):
        return (self.along(1, 0) - np.float32(u)) ** 2 + (self.along(0, 1) - np.float32(v)) ** 2 < radius**2


def _star(frame):
    # a point of a five-pointed star is outside of at most one of the five lines that its sides lie on
    return sum(side.astype("int8") for side in frame.sides(5, 0.36, -np.pi / 2)) >= 4


def _heart(frame):
    u, v = 1.25 * frame.along(1, 0), 1.25 * frame.along(0, 1) + np.float32(0.12)
    u2, v2 = u * u, v * v
    return (u2 + v2 - 1) ** 3 < u2 * v2 * v


def _arrow(frame):
    u, v = frame.along(1, 0), frame.along(0, 1)
    head = (u > 0.05) & (np.abs(v) < 0.85 * (1 - u))
    return head | ((u > -1) & (u <= 0.05) & (np.abs(v) < 0.25))


_INSIDE = {
    "disc": lambda f: f.disc(0.9),
    "ring": lambda f: f.disc(0.95) & ~f.disc(0.55),
    "square": lambda f: f.box(0.78, 0.78),
    "triangle": lambda f: f.polygon(3, 0.52, -np.pi / 2),
    "star": _star,
    "cross": lambda f: f.box(0.95, 0.28) | f.box(0.28, 0.95),
    "crescent": lambda f: f.disc(0.95) & ~f.disc(0.8, u=0.42),
    "heart": _heart,
    "arrow": _arrow,
    "hexagon": lambda f: f.polygon(6, 0.82, 0.0),
}
