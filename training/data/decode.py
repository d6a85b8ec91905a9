"""Encoded pictures to uint8 arrays, with one error for whatever can be wrong with a file.

Pillow decodes: it reads every format that `folder:` takes, its JPEG decoder releases Python's lock, so several workers
add up, and evaluation sees the very bits that the published accuracies were measured on. EXIF orientation and colour
profiles are ignored, as the usual training loaders ignore them; of an animation the first frame counts.
"""

import io

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_MODES = {1: "L", 3: "RGB"}


class UnreadableImage(OSError):
    """A picture that cannot be decoded; the text names it and gives the reason."""


def check_channels(channels):
    if channels not in _MODES:
        raise ValueError(f"pictures are read with 1 channel (grey) or 3 (RGB). Received: channels={channels!r}")


def decode_file(path, channels):
    """(H, W, channels) uint8 of a picture file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImage(f"cannot read the image {path}: {error.strerror or error}") from error
    return decode_bytes(data, channels, path)


def decode_bytes(data, channels, name):
    """(H, W, channels) uint8 of an encoded picture; `name` is what an error calls it."""
    if not data:
        raise UnreadableImage(f"cannot read the image {name}: it is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I"):  # 16 bit grey: Pillow's own conversion would clip at 255
                grey = (np.asarray(image).astype("int64") >> 8).clip(0, 255).astype("uint8")
                return np.repeat(grey[..., None], channels, axis=-1)
            pixels = np.array(image.convert(_MODES[channels]))
    except Exception as error:  # damaged bytes surface as whatever the decoder met, from OSError to IndexError
        # Pillow's text would repeat the address of its buffer, which says nothing and differs in every run
        reason = "not a picture in a known format" if "cannot identify" in str(error) else error
        raise UnreadableImage(f"cannot read the image {name}: {reason}".replace("\n", " ")) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def to_channels(images, channels):
    """RGB uint8 (..., 3) as it is, or as grey (..., 1) with the weights that `decode_file` uses."""
    if channels == 3:
        return images
    weights = np.array([19595, 38470, 7471], "uint32")  # .299, .587, .114 in 16 bits: Pillow's own integers
    return ((images.astype("uint32") @ weights + 0x8000) >> 16).astype("uint8")[..., None]
