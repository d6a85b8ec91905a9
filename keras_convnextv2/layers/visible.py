"""Patches: cutting a picture, keeping the visible ones, putting them back."""

import math

from keras import ops

from keras_convnextv2 import kernels


def cut_patches(x, side):
    """(B, H, W, C) -> (B, L, side * side * C): patches in row-major order, each as (row, column, channel)."""
    height, width, channels = x.shape[1] // side, x.shape[2] // side, x.shape[3]
    x = ops.reshape(x, (-1, height, side, width, side, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * width, side * side * channels))


def join_patches(patches, grid, channels):
    """The inverse of `cut_patches`: (B, L, side * side * C) -> (B, h * side, w * side, C) with `grid` = (h, w)."""
    height, width = grid
    side = math.isqrt(patches.shape[2] // channels)
    x = ops.reshape(patches, (-1, height, width, side, side, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * side, width * side, channels))


def visible_count(patches, mask_ratio):
    """How many of so many patches stay: K = int(L * (1 - mask_ratio)), the reference's rule (models/fcmae.py)."""
    return int(patches * (1 - mask_ratio))


class Visible:
    """Which patches of each image are visible, and the way between a map and the rows of its visible patches.

    Rows (B, K * q * q, C) hold the positions of the K visible patches, each q x q positions at the present stage.
    Only a layer with neighbours needs the map (`through`); everything else works on rows alone.

    Args:
        visible: (B, K), the row-major indices of the patches that stay.
        grid: (h, w), patches of an image.
        ordered: each row of `visible` is known to be sorted, on which the way back relies; else they are sorted here.
    """

    def __init__(self, visible, grid, ordered=False):
        visible = ops.cast(visible, "int32")
        self.visible = visible if ordered else ops.sort(visible, axis=1)
        self.grid = grid
        self.count = visible.shape[1]
        self.total = grid[0] * grid[1]
        self.stays = ops.sum(ops.one_hot(self.visible, self.total, dtype="int32"), axis=1)  # (B, L), 1 or 0
        self.position = ops.where(self.stays > 0, ops.cumsum(self.stays, axis=1) - 1, self.count)

    def keep(self, patches):
        """(B, L, F) -> (B, K, F)"""
        return kernels.keep_patches(patches, self.visible, self.position)

    def hidden(self):
        """The complement, as `Visible`."""
        numbers = ops.where(self.stays > 0, self.total, ops.arange(self.total, dtype="int32"))
        return Visible(ops.sort(numbers, axis=1)[:, : self.total - self.count], self.grid, ordered=True)

    def rows(self, x):
        """Map (B, h * q, w * q, C) -> rows (B, K * q * q, C)."""
        side, channels = x.shape[1] // self.grid[0], x.shape[3]
        return ops.reshape(self.keep(cut_patches(x, side)), (-1, self.count * side * side, channels))

    def map(self, rows):
        """Rows (B, K * q * q, C) -> map (B, h * q, w * q, C), zero where hidden."""
        side, channels = self._side(rows), rows.shape[2]
        patches = ops.reshape(rows, (-1, self.count, side * side * channels))
        return join_patches(kernels.put_patches_back(patches, self.visible, self.position), self.grid, channels)

    def mask(self, side):
        """(B, h * side, w * side, 1) int32, 1 = visible."""
        mask = ops.reshape(self.stays, (-1, *self.grid, 1))
        return ops.repeat(ops.repeat(mask, side, axis=1), side, axis=2)

    def through(self, layer, rows):
        """A layer that has neighbours: it sees the map with zeros at hidden patches."""
        return self.rows(layer(self.map(rows)))

    def each(self, layer, rows):
        """A layer that stays inside a patch but works on maps: it sees each visible patch as an image of its own."""
        side = self._side(rows)
        y = layer(ops.reshape(rows, (-1, side, side, rows.shape[2])))  # (B * K, q', q', C')
        return ops.reshape(y, (-1, self.count * y.shape[1] * y.shape[2], y.shape[3]))

    def mask_of(self, rows):
        """What GRN must be told: nothing, all rows are visible."""
        return None

    def _side(self, rows):
        return math.isqrt(rows.shape[1] // self.count)


class MaskedMap(Visible):
    """The same visible patches, kept as a dense map whose hidden positions are masked wherever it matters.

    It defines what `Visible` computes on rows: tests compare the two, benchmarks time them.
    """

    def through(self, layer, x):
        return layer(x * ops.cast(self.mask_of(x), x.dtype))

    def each(self, layer, x):
        return layer(x)

    def mask_of(self, x):
        return self.mask(x.shape[1] // self.grid[0])
