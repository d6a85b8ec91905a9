import io

import numpy as np
import pytest
from PIL import Image

from training.data import shapes
from training.data.decode import SUFFIXES, UnreadableImage, check_channels, decode_bytes, decode_file, to_channels


@pytest.fixture(scope="module")
def picture():
    return shapes.shapes(1, "test")[0][0, :40, :56]


def encoded(picture, form, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form, options", [("png", {}), ("bmp", {}), ("webp", {"lossless": True})])
def test_lossless_formats_come_back(picture, form, options):
    np.testing.assert_array_equal(decode_bytes(encoded(picture, form, **options), 3, "x"), picture)


@pytest.mark.parametrize("form", ["jpeg", "gif"])
def test_lossy_formats_come_back_nearly(picture, form):
    decoded = decode_bytes(encoded(picture, form), 3, "x")
    assert decoded.shape == (40, 56, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - picture).mean() < 5


def test_grey_is_repeated_and_colour_made_grey(picture):
    grey = encoded(picture[..., 0], "png")
    np.testing.assert_array_equal(decode_bytes(grey, 3, "x"), np.repeat(picture[..., :1], 3, -1))
    np.testing.assert_array_equal(decode_bytes(grey, 1, "x"), picture[..., :1])
    np.testing.assert_array_equal(decode_bytes(encoded(picture, "png"), 1, "x"), to_channels(picture, 1))
    assert to_channels(picture, 3) is picture


def test_sixteen_bit_grey_keeps_its_shades():
    deep = (np.arange(40 * 56).reshape(40, 56) * 29).astype("uint16")
    np.testing.assert_array_equal(decode_bytes(encoded(deep, "png"), 1, "x")[..., 0], deep >> 8)


def test_alpha_and_palette_are_read_as_colour(picture):
    alpha = np.concatenate([picture, np.full_like(picture[..., :1], 200)], -1)
    np.testing.assert_array_equal(decode_bytes(encoded(alpha, "png"), 3, "x"), picture)
    file = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(file, "png")
    assert decode_bytes(file.getvalue(), 3, "x").shape == (40, 56, 3)


@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "bmp"])
def test_truncated_bytes_are_unreadable(picture, form):
    data = encoded(picture, form)
    with pytest.raises(UnreadableImage, match="cannot read the image number 3: ") as caught:
        decode_bytes(data[: len(data) // 2], 3, "number 3")
    assert "\n" not in str(caught.value)


def test_strange_bytes_empty_and_missing_files_are_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match="image x: not a picture in a known format$"):
        decode_bytes(b"<html>not found</html>", 3, "x")
    with pytest.raises(UnreadableImage, match="image x: it is empty"):
        decode_bytes(b"", 3, "x")
    with pytest.raises(UnreadableImage, match="gone.png: No such file"):
        decode_file(str(tmp_path / "gone.png"), 3)


def test_other_channel_counts_are_refused():
    assert ".jpeg" in SUFFIXES
    with pytest.raises(ValueError, match=r"1 channel \(grey\) or 3 \(RGB\). Received: channels=4"):
        check_channels(4)
