"""Objects of a picture: their boxes, classes and masks, and what is done about boxes that cannot be."""

import dataclasses
from collections.abc import Callable

import numpy as np

from training.data.checking import each

POINTS = 3  # a polygon of fewer encloses nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """What is in a picture.

    Args:
        boxes: float32 (n, 4).
        classes: int32 (n,), from 0.
        difficult: bool (n,): known to be hard; metrics count them neither way.
        crowd: bool (n,): one box around many.
        area: float32 (n,), of the mask where there is one, else of the box.
        draw: (H, W) -> bool (n, H, W), the masks; None where only boxes are known.
        name: what an error calls the place they come from.
        clipped, dropped: ids of those whose box reached outside of the picture, and of those left out.
    Units:
        x1 y1 x2 y2 in pixels of the stored picture, continuous: a box around one pixel has sides of 1.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    draw: Callable | None = None
    name: str = ""
    clipped: tuple = ()
    dropped: tuple = ()

    def __len__(self):
        return len(self.boxes)

    @property
    def trained(self):
        """bool (n,): those that training has as targets. mmdetection leaves out crowds and difficult ones, too."""
        return ~(self.crowd | self.difficult)

    def masks(self, size):
        """bool (n, H, W) for a picture of this size, or None where only boxes are known.

        One that is not trained on and has no mask has that of its box.

        Raises:
            ValueError: a mask of another size, a damaged one, one that is lacking beside others; names it.
        """
        if self.draw is None:
            return None if len(self) else np.zeros((0, *size), bool)
        return self.draw(tuple(size))

    def only(self, which):
        """Those of some numbers, or of a mask over all; what was clipped or dropped is no longer said."""
        draw = None if self.draw is None else lambda size: self.draw(size)[which]
        arrays = (array[which] for array in (self.boxes, self.classes, self.difficult, self.crowd, self.area))
        return Objects(*arrays, draw, self.name)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stated:
    """What a file says about the objects of a picture, before it is compared with the pixels.

    Args:
        name: what an error calls the file and the picture.
        ids: of the objects, for errors.
        boxes: (n, 4) numbers.
        size: (H, W) of the picture, or None.
        difficult, crowd: (n,); None: none of them.
        area: (n,); None: those of the boxes.
        segmentations: of each object a list of polygons (flat arrays x0 y0 x1 y1 ...), an RLE {"size", "counts"} or
            None; None where no object has one.
    """

    name: str
    ids: tuple
    boxes: np.ndarray
    classes: np.ndarray
    size: tuple | None = None
    difficult: np.ndarray | None = None
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None
    segmentations: tuple | None = None

    def within(self, size):
        """The Objects of a picture of this size: boxes are clipped to it, those that then are empty are left out.

        Raises:
            ValueError: the file speaks of a picture of another size, or a box is no four finite numbers.
        """
        if self.size is not None and tuple(self.size) != tuple(size):
            raise ValueError(
                f"{self.name} must state the size of its picture, {tuple(size)}. Received: {tuple(self.size)}."
            )
        stated = np.asarray(self.boxes, "float64").reshape(-1, 4)
        for k in np.flatnonzero(~np.isfinite(stated).all(1)):
            raise ValueError(f"{self._called(k)} must have a finite box. Received: {stated[k].tolist()}.")
        boxes = inside(stated, size)
        whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
        keep, changed = np.flatnonzero(whole), np.flatnonzero(whole & (boxes != stated).any(1))
        none = np.zeros(len(stated), bool)
        untrained = (none if self.crowd is None else self.crowd) | (none if self.difficult is None else self.difficult)
        alone = self.segmentations is None and not untrained[keep].all()
        chosen = lambda values, otherwise: np.asarray(otherwise if values is None else values)[keep]  # noqa: E731
        return Objects(
            boxes[keep].astype("float32"),
            chosen(self.classes, None).astype("int32"),
            chosen(self.difficult, none).astype(bool),
            chosen(self.crowd, none).astype(bool),
            chosen(self.area, areas(boxes)).astype("float32"),
            None if alone else lambda size: self._drawn(keep, boxes[keep], untrained[keep], size),
            self.name,
            tuple(self.ids[k] for k in changed),
            tuple(self.ids[k] for k in np.flatnonzero(~whole)),
        )

    def _drawn(self, which, boxes, untrained, size):
        masks = np.zeros((len(which), *size[::-1]), bool).swapaxes(1, 2)  # in columns, as all of them are stored
        for row, k in enumerate(which):
            segmentation = None if self.segmentations is None else self.segmentations[k]
            if segmentation is None and untrained[row]:
                first, last = np.floor(boxes[row, :2]).astype(int), np.ceil(boxes[row, 2:]).astype(int)
                masks[row, first[1] : last[1], first[0] : last[0]] = True
                continue
            try:
                masks[row] = mask_of(segmentation, size)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{self._called(k)}: {error}".replace("\n", " ")) from error
        return masks

    def _called(self, k):
        return f"{self.name}, object {self.ids[k]}"


def inside(boxes, size):
    """Boxes (n, 4) clipped to a picture of (H, W)."""
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def areas(boxes):
    """(n,) of (n, 4)."""
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def boxes_of(masks, rows=None, columns=None):
    """float32 (n, 4) around the pixels of masks (n, H, W); zeros where there are none.

    Args:
        rows, columns: ascending numbers: the pixels are those of a picture whose pixel (i, j) is that of the masks at
            (rows[i], columns[j]); each of theirs is looked at once. None: the masks themselves.
    """
    rows, columns = (
        np.arange(length) if old is None else old for old, length in zip((rows, columns), masks.shape[1:], strict=True)
    )
    some = _taken(_taken(masks.swapaxes(1, 2), columns, 1), rows, 2)  # in the order of the memory
    (top, bottom), (left, right) = _ends(some.any(1), rows), _ends(some.any(2), columns)
    return np.stack([left, top, right, bottom], axis=1).astype("float32")


def _taken(array, old, axis):
    """The different ones of ascending places on an axis."""
    different = np.unique(old)
    if len(different) == different[-1] - different[0] + 1:  # a slice is many times as fast
        return array[(slice(None),) * axis + (slice(different[0], different[-1] + 1),)]
    return array.take(different, axis)


def _ends(found, old):
    """First and one behind the last new place (n,) of what is true in (n, count of different old places)."""
    some, different = found.any(1), np.unique(old)
    first, last = found.argmax(1), found.shape[1] - 1 - found[:, ::-1].argmax(1)
    first, last = np.searchsorted(old, different[first], "left"), np.searchsorted(old, different[last], "right")
    return np.where(some, first, 0), np.where(some, last, 0)


def mask_of(segmentation, size):
    """bool (H, W) of polygons, as COCO's own tool draws them, or of an RLE, compressed or not.

    Raises:
        ValueError: no segmentation, an RLE of another size or with runs that do not fill it.
        ImportError: polygons without pycocotools.
    """
    if segmentation is None:
        raise ValueError("it has no mask, though others have")
    if isinstance(segmentation, dict):
        return _of_runs(segmentation, size)
    polygons = [np.asarray(polygon, "float64").tolist() for polygon in segmentation]
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("its polygons must have as many y as x")
    polygons = [polygon for polygon in polygons if len(polygon) >= 2 * POINTS]
    if not polygons:
        return np.zeros(size, bool)
    coder = _coder()
    return coder.decode(coder.merge(coder.frPyObjects(polygons, *size))).astype(bool)


def _of_runs(segmentation, size):
    """By numpy: where runs do not fill the picture, pycocotools leaves the rest as the memory was."""
    found, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(found, list | tuple) or counts is None:
        raise ValueError(f"an RLE must have size (height, width) and counts. Received: {str(segmentation)[:80]}")
    if (found := tuple(found)) != tuple(size):
        raise ValueError(f"its mask must have the size of the picture, {tuple(size)}. Received: {found}")
    runs = np.array(runs_of(counts) if isinstance(counts, str | bytes) else counts, "int64")
    if runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise ValueError(f"the runs of its mask must fill {size[0] * size[1]} pixels. Received: {runs.sum()}")
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # column after column
    return columns.reshape(size[::-1]).T


def runs_of(text):
    """The lengths of the runs of a compressed RLE, of zeros first.

    Five bits a character, the lowest first; bit 5 says that more follow, bit 4 of the last is the sign; from the fourth
    run on, a number is the difference to the run before the last one.
    """
    runs, number, shift = [], 0, 0
    for character in text.encode() if isinstance(text, str) else text:
        bits = character - 48
        number, shift = number | (bits & 31) << shift, shift + 5
        if not bits & 32:
            number -= (bits & 16) >> 4 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs


def _coder():
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('polygons need pycocotools. Install it: pip install "keras_convnextv2[detection]"') from error
    return mask


def require_objects(source, say, *, masks=False, lacking=False):
    """Reads the objects of every picture of a source, in parallel; says once what was clipped or left out.

    Args:
        masks: whether all masks are drawn, too.
        lacking: whether there may be boxes alone then.
    Returns:
        The numbers of the classes of those that training has as targets and metrics count, a set.
    Raises:
        ValueError: names all pictures whose objects are bad, and those that cannot be opened.
    """
    counts, first, seen = {"clipped": 0, "dropped": 0}, {}, set()
    rule = f"every picture of {source.name} and its objects must be sound"

    def check(index):
        return _checked(masks, lacking, *source.opened(index))

    for objects in each(source, check, say, rule, "pictures with objects"):
        seen.update(objects.classes[objects.trained].tolist())
        for kind in counts:
            ids = getattr(objects, kind)
            counts[kind] += len(ids)
            if ids:
                first.setdefault(kind, f"{objects.name}, object {ids[0]}")
    for kind, what in (
        ("clipped", "reach outside of their pictures and are clipped"),
        ("dropped", "are empty: left out"),
    ):
        if counts[kind]:
            say(f"{source.name}: {counts[kind]:,} boxes {what}; the first one: {first[kind]}")
    return seen


def _checked(masks, lacking, picture, objects):
    if masks and not (lacking and objects.draw is None):
        trained = objects.only(objects.trained)
        require_masks(trained, trained.masks(picture.size))
    return objects


def require_masks(objects, masks):
    """Those masks; raises where only boxes are known."""
    if masks is None:
        raise ValueError(f"masks need polygons or RLE. Received: {objects.name}, which has boxes alone. Train without")
    return masks
