"""Large pictures in tiles that overlap, as a source of their own."""

import concurrent.futures
import dataclasses
import zlib

import numpy as np

from training.data.objects import areas, inside
from training.data.picture_source import PictureSource
from training.data.segmentation import filled_up


def windows(size, side, gap):
    """int (n, 4), x1 y1 x2 y2 of the square tiles of a picture of (H, W), row by row.

    Tiles follow each other in steps of side - gap; the last one of a row or column is moved back to end with the
    picture. Where the picture is shorter than `side`, one tile begins with it and reaches outside.

    Args:
        gap: by how many pixels neighbours overlap.
    Source:
        mmrotate, tools/data/dota/split/img_split.py, by which GrokSAR cuts SAR-AIRcraft-1.0 with side 512, gap 200. It
        also leaves out tiles with at most .6 of their area in the picture, unless that is all of them; as all tiles of
        a picture have the same share of it, that never leaves out one.
    """
    if not 0 <= gap < side:
        raise ValueError(f"gap must be within 0 .. side - 1. Received: side={side!r}, gap={gap!r}")
    tops, lefts = (_starts(whole, side, side - gap) for whole in size)
    corners = np.array([(left, top) for top in tops for left in lefts])
    return np.concatenate([corners, corners + side], axis=1)


def _starts(whole, side, step):
    return [*range(0, whole - side, step), max(whole - side, 0)]


def objects_within(objects, window, size, least=0.7):
    """The Objects of a tile x1 y1 x2 y2 of a picture of (H, W), in the tile's pixels: moved and clipped.

    Args:
        least: objects with a smaller share of their box in the tile are left out, though their pixels are seen. The
            area of the others shrinks by that share.
    """
    left, top, right, bottom = (int(side) for side in window)
    cut = inside(objects.boxes - np.array([left, top, left, top], "float32"), (bottom - top, right - left))
    share = areas(cut.astype("float64")) / areas(objects.boxes.astype("float64"))
    keep = share >= least
    kept = objects.only(keep)
    masks = None if kept.draw is None else lambda _: _cut(kept.masks(size), left, top, right, bottom)
    area = (kept.area * share[keep]).astype("float32")
    return dataclasses.replace(kept, boxes=cut[keep], area=area, draw=masks)


def _cut(masks, left, top, right, bottom):
    whole = np.zeros((len(masks), bottom - top, right - left), bool)
    part = masks[:, top:bottom, left:right]
    whole[:, : part.shape[1], : part.shape[2]] = part
    return whole


class TiledSource(PictureSource):
    """A PictureSource of tiles.

    `places` is int (count, 5): of each tile the number of its picture in `whole`, and its x1 y1 x2 y2 there.
    """

    def __init__(self, whole, places, read):
        contents = lambda: zlib.crc32(places.astype("int64").tobytes(), whole.fingerprint)  # noqa: E731
        kinds = {"channels": whole.channels, "classes": whole.classes, "labelled": whole.labelled, "contents": contents}
        super().__init__(f"tiles of {whole.name}", read, len(places), **kinds)
        self.whole, self.places = whole, places


def tiled(source, side=512, gap=200, *, fill=0, least_of_object=0.7, filter_empty=False):
    """The TiledSource of all tiles of a source of pictures with objects.

    Args:
        side, gap: as of `windows`.
        fill: the value, or one a channel, where a tile reaches outside of its picture.
        least_of_object: as of `objects_within`.
        filter_empty: leaves out tiles without an object to train on.
    """

    def cut(number):
        picture, objects = source.opened(number)
        found = windows(picture.size, side, gap)
        if filter_empty:
            has = [objects_within(objects, window, picture.size, least_of_object).trained.any() for window in found]
            found = found[np.array(has)]
        return np.insert(found, 0, number, axis=1)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        places = np.concatenate(list(pool.map(cut, range(source.count))))
    if not len(places):
        raise ValueError(f"tiles of {source.name} must have objects to train on. Received: none that has")

    def read(index):
        number, left, top, right, bottom = (int(value) for value in places[index])
        picture, objects = source.opened(number)
        pixels = filled_up(picture.array[top:bottom, left:right], (side, side), fill)
        return pixels, objects_within(objects, places[index, 1:], picture.size, least_of_object)

    return TiledSource(source, places, read)
