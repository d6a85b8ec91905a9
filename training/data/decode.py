"""Pictures, encoded or in memory, and the windows of them, with one error for whatever can be wrong with a file.

Pillow decodes and resizes: it reads every format that `folder:` takes, it releases Python's lock meanwhile, so several
workers add up, and evaluation sees the very bits that the published accuracies were measured on. EXIF orientation and
colour profiles are ignored, as the usual training loaders ignore them; of an animation the first frame counts.
"""

import contextlib
import io
import math
import os

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_MODES = {1: "L", 3: "RGB"}
HEADER = 1 << 14  # bytes of a file that mostly hold its header
_SPARE = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 where the window still has that many times the pixels of its target


class UnreadableImage(OSError):
    """A picture that cannot be decoded; the text names it and gives the reason."""


def check_channels(channels):
    if channels not in _MODES:
        raise ValueError(f"pictures are read with 1 channel (grey) or 3 (RGB). Received: channels={channels!r}")


class Pixels:
    """A picture in memory, (H, W, 1 or 3) uint8."""

    def __init__(self, array):
        self.array, self.size = array, array.shape[:2]

    @property
    def image(self):
        """The whole picture as a Pillow image."""
        return as_image(self.array)

    def resized(self, window, size):
        """The window (top, left, height, width) at a size (h, w), as a Pillow image; nothing outside has a part in it.

        Bicubic with antialias, rounded to eight bits after each of its two passes.
        """
        top, left, height, width = window
        return _resize(as_image(self.array[top : top + height, left : left + width]), size)


class Encoded:
    """A picture in the bytes of a file; the size is read at once, the pixels when they are asked for.

    Args:
        name: what an error calls it.
    Raises:
        UnreadableImage: here or later, for whatever the decoder meets.
    """

    def __init__(self, data, channels, name):
        self._data, self._channels, self._name = data, channels, name
        with self._opened() as image:
            self.size = image.height, image.width

    @property
    def image(self):
        """The whole picture as a Pillow image."""
        return self._decoded()[0]

    @property
    def array(self):
        """(H, W, channels) uint8 of the whole picture."""
        return as_array(self.image)

    def resized(self, window, size):
        """As of `Pixels`. Of a window that is many times larger than `size`, a JPEG is decoded at a fraction.

        The decoder's own reduction is a filter too: the result then differs from that of the whole decoding, by less
        than one grey level on average.
        """
        spare = min(window[2] / size[0], window[3] / size[1]) / _SPARE
        image, scale = self._decoded(next((scale for scale in (8, 4, 2) if scale <= spare), 1))
        top, left, height, width = (side / scale for side in window)
        first_row, first_column = math.floor(top), math.floor(left)
        last_row, last_column = math.ceil(top + height), math.ceil(left + width)
        box = (left - first_column, top - first_row, left - first_column + width, top - first_row + height)
        return _resize(image.crop((first_column, first_row, last_column, last_row)), size, box)

    def _decoded(self, scale=1):
        """A Pillow image, and the scale: 1 where the format knows no other."""
        with self._opened() as image:
            if scale > 1 and image.draft(image.mode, (self.size[1] // scale, self.size[0] // scale)) is None:
                scale = 1
            if image.mode.startswith("I"):  # 16 bit grey: Pillow's own conversion would clip at 255
                grey = (np.asarray(image).astype("int64") >> 8).clip(0, 255).astype("uint8")
                image = Image.fromarray(grey)
            image.load()
            mode = _MODES[self._channels]
            return image if image.mode == mode else image.convert(mode), scale

    @contextlib.contextmanager
    def _opened(self):
        if not self._data:
            raise UnreadableImage(f"cannot read the image {self._name}: it is empty")
        try:
            with Image.open(io.BytesIO(self._data)) as image:
                yield image
        except Exception as error:  # damaged bytes surface as whatever the decoder met, from OSError to IndexError
            # Pillow's text would repeat the address of its buffer, which says nothing and differs in every run
            reason = "not a picture in a known format" if "cannot identify" in str(error) else error
            raise UnreadableImage(f"cannot read the image {self._name}: {reason}".replace("\n", " ")) from error


def open_file(path, channels):
    """The picture of a file."""
    return Encoded(_bytes_of(path), channels, printable(path))


def size_of(path):
    """(H, W) of a picture file, by its header alone: the first bytes are read, and more where that is not enough."""
    start = _bytes_of(path, HEADER)
    try:
        return Encoded(start, 3, printable(path)).size
    except UnreadableImage:
        return Encoded(_bytes_of(path) if len(start) == HEADER else start, 3, printable(path)).size


def _bytes_of(path, count=-1):
    try:
        if not (os.path.isfile(path) or os.path.isdir(path)) and os.path.exists(path):
            raise OSError("it is no regular file")  # to open a pipe would wait for whoever writes into it
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise UnreadableImage(f"cannot read the image {printable(path)}: {error.strerror or error}") from error


def lines_of(path):
    """The lines of a text file that say something, without spaces around them.

    Raises:
        ValueError: it is no UTF-8; the text names the file.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors put a mark before the first line
            return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} must be a text in UTF-8. Received: {error}") from error


def printable(path):
    """A path as a text that can be printed and written, also where its name is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def as_image(array):
    """A Pillow image of (H, W, 1 or 3) uint8."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def as_array(image):
    """(H, W, 1 or 3) uint8 of a Pillow image."""
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def _resize(image, size, box=None):
    return image.resize(size[::-1], Image.Resampling.BICUBIC, box=box)


def to_channels(images, channels):
    """RGB uint8 (..., 3) as it is, or as grey (..., 1) with the weights that `Encoded` uses."""
    if channels == 3:
        return images
    weights = np.array([19595, 38470, 7471], "uint32")  # .299, .587, .114 in 16 bits: Pillow's own integers
    return ((images.astype("uint32") @ weights + 0x8000) >> 16).astype("uint8")[..., None]
