import io

import numpy as np
import pytest
from PIL import Image

from training.data import shapes
from training.data.decode import SUFFIXES, Encoded, Pixels, UnreadableImage, check_channels, open_file, to_channels


@pytest.fixture(scope="module")
def picture():
    return shapes.shapes(1, "test")[0][0, :40, :56]


def encoded(picture, form, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **options)
    return file.getvalue()


def decode_bytes(data, channels, name):
    return Encoded(data, channels, name).array


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
        open_file(str(tmp_path / "gone.png"), 3)


def test_damage_is_found_whatever_the_window(picture):
    # a picture that is left out for one window only would come back when a run is resumed
    damaged = Encoded(encoded(np.tile(picture, (8, 8, 1)), "jpeg")[:-600], 3, "number 3")
    for window in ((0, 0, 8, 8), (0, 0, 320, 448)):
        with pytest.raises(UnreadableImage, match="cannot read the image number 3: .*truncated"):
            damaged.resized(window, (4, 4))


@pytest.mark.parametrize("channels, form", [(3, "png"), (1, "png"), (3, "jpeg"), (1, "jpeg")])
def test_a_window_is_cropped_before_it_is_resized(picture, channels, form):
    data = encoded(picture, form)
    whole = decode_bytes(data, channels, "x")
    expected = Image.fromarray(whole.squeeze()[3:33, 10:50]).resize((32, 24), Image.Resampling.BICUBIC)
    for source in (Encoded(data, channels, "x"), Pixels(whole)):
        assert source.size == (40, 56)
        np.testing.assert_array_equal(np.asarray(source.resized((3, 10, 30, 40), (24, 32))), expected)


def photo_like(height, width):
    """Smooth shapes with edges and a little grain, so that a JPEG of it compares with one of a photo."""
    y, x = np.mgrid[:height, :width] / height
    waves = [
        np.sin(9 * x + 4 * k + 3 * np.sin(5 * y)) + (np.hypot(x - 0.6, y - 0.4) < 0.2 + 0.05 * k) for k in range(3)
    ]
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 1))
    return (100 + 50 * np.stack(waves, -1) + grain).clip(0, 255).astype("uint8")


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 75, "subsampling": "4:2:0", "progressive": True}])
@pytest.mark.parametrize("window, scale", [((13, 35, 770, 901), 8), ((101, 6, 400, 450), 4), ((6, 101, 200, 230), 2)])
def test_large_windows_are_decoded_smaller_within_tolerance(options, window, scale):
    data = encoded(photo_like(801, 1003), "jpeg", **options)
    picture, size = Encoded(data, 3, "x"), (48, 40)
    reduced, expected = (np.asarray(p.resized(window, size)).astype(int) for p in (picture, Pixels(picture.array)))
    assert picture._decoded(scale)[0].height == -(-801 // scale)
    difference = np.abs(reduced - expected)
    assert 0 < difference.mean() < 1 and abs((reduced - expected).mean()) < 0.1


def test_smaller_windows_and_other_formats_are_decoded_whole():
    pixels = photo_like(801, 1003)
    for form, window in (("jpeg", (5, 6, 190, 230)), ("png", (5, 6, 700, 900))):
        picture = Encoded(encoded(pixels, form), 3, "x")
        whole = Pixels(picture.array).resized(window, (48, 40))
        np.testing.assert_array_equal(np.asarray(picture.resized(window, (48, 40))), np.asarray(whole))


def test_other_channel_counts_are_refused():
    assert ".jpeg" in SUFFIXES
    with pytest.raises(ValueError, match=r"1 channel \(grey\) or 3 \(RGB\). Received: channels=4"):
        check_channels(4)
