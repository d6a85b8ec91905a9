"""Windows, scales and mirrored pictures against the same done by hand on whole arrays."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2 import pictures
from keras_convnextv2.kernels.resampling import resized
from keras_convnextv2.segmentation import sliding

CLASSES = 4


def model():
    """A network whose answer at a pixel depends on its neighbours and on where the window ends."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(CLASSES, 5, padding="same", kernel_initializer=keras.initializers.RandomNormal(seed=1))(
        inputs
    )
    return keras.Model(inputs, x)


def picture(height=23, width=31):
    return np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype("float32")


def by_hand(network, image, window, stride):
    """mmsegmentation's rule on a whole array: sums of logits over the number of windows."""
    (h, w), (ch, cw), (sh, sw) = image.shape[:2], window, stride
    sums, counts = np.zeros((h, w, CLASSES)), np.zeros((h, w, 1))
    for i in range(max(h - ch + sh - 1, 0) // sh + 1):
        for j in range(max(w - cw + sw - 1, 0) // sw + 1):
            bottom, right = min(i * sh + ch, h), min(j * sw + cw, w)
            part = slice(max(bottom - ch, 0), bottom), slice(max(right - cw, 0), right)
            sums[part] += network.predict_on_batch(image[part][None])[0]
            counts[part] += 1
    return sums / counts


@pytest.mark.parametrize(
    "window, stride", [((9, 12), (6, 8)), ((9, 12), (9, 5)), ((23, 10), (4, 3)), ((40, 40), (20, 20))]
)
def test_windows_are_mmsegmentations(window, stride):
    network, image = model(), picture()
    expected = by_hand(network, image, window, stride)
    found = np.concatenate(list(sliding._logits(network, image, window, stride)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    labels = kc.segmentation.predict(network, image, window=window, stride=stride)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected.argmax(-1))


def test_scales_and_mirrors_average_probabilities():
    network, image = model(), picture()
    total = 0
    for size in ((17, 23), (29, 39)):  # 0.75 and 1.25 of 23 x 31, rounded
        for turn in (slice(None), slice(None, None, -1)):
            scaled = ops.convert_to_numpy(resized(image[None, :, turn], size))[0]
            logits = by_hand(network, scaled, (9, 12), (6, 8))
            logits = ops.convert_to_numpy(resized(logits[None].astype("float32"), (23, 31)))
            total = total + ops.convert_to_numpy(ops.softmax(logits))[0][:, turn]
    options = {"window": (9, 12), "stride": (6, 8), "scales": (0.75, 1.25), "flip": True}
    found = kc.segmentation.predict(network, image, **options)
    assert (found == total.argmax(-1)).mean() > 0.995  # the rest are ties of rounding


def test_sizes_follow_the_protocol():
    assert pictures.scaled_size((683, 1024), (2048, 512), 1.0) == (512, 768)
    assert pictures.scaled_size((100, 1024), (2048, 512), 1.0) == (200, 2048)
    assert pictures.scaled_size((683, 1024), (2048, 512), 0.75) == (384, 576)


def test_windows_have_one_shape():
    network, shapes = model(), set()
    answer = network.predict_on_batch
    network.predict_on_batch = lambda x: shapes.add(x.shape) or answer(x)
    kc.segmentation.predict(network, picture(50, 40), window=16)
    assert shapes == {(1, 16, 16, 3)}


def test_a_upernet_as_a_whole_and_by_windows():
    segmenter = kc.UPerNet(kc.ConvNeXtV2((1, 1), (8, 12), include_top=False), 3, channels=8, auxiliary_channels=0)
    image = picture(40, 56)
    whole = kc.segmentation.predict(segmenter, image)
    np.testing.assert_array_equal(whole, ops.convert_to_numpy(segmenter(image[None]))[0].argmax(-1))
    assert kc.segmentation.predict(segmenter, image, window=32, flip=True, verbose=0).shape == (40, 56)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"picture": np.zeros((4, 5))}, r"picture must be \(height, width, channels\). Received: shape \(4, 5\)."),
        ({"picture": np.zeros((4, 5, 1))}, r"picture must have 3 channels. Received: shape \(4, 5, 1\)."),
        ({"scales": ()}, r"scales must be one positive factor or more, such as .* Received: \(\)."),
        ({"window": 8.0}, "window must be a side in whole pixels, or .* Received: 8.0."),
        ({"window": 0}, "window must be a side in whole pixels, or .* Received: 0."),
        ({"window": (8, 8, 3)}, r"window must be a side in whole pixels, or .* Received: \(8, 8, 3\)."),
        ({"window": 8, "stride": "4"}, "stride must be a side in whole pixels, or .* Received: '4'."),
        ({"window": 8, "stride": 9}, r"stride must be in 1..window, which is \(8, 8\). Received: \(9, 9\)."),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        kc.segmentation.predict(**{"model": model(), "picture": picture(), **arguments})


@pytest.mark.parametrize("have, want, block", [(512, 200, 60), (512, 100, 17), (40, 160, 7), (160, 512, 9)])
def test_rows_that_come_in_blocks_are_resized_as_the_whole(have, want, block):
    x = np.random.default_rng(0).normal(size=(have, 5, 2)).astype("float32")
    blocks = [x[start : start + block] for start in range(0, have, block)]
    found = np.concatenate(list(pictures.resized_rows(blocks, (have, 5), (want, 7))))
    expected = np.concatenate(list(pictures.resized_rows([x], (have, 5), (want, 7))))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_small_photo_by_windows_is_the_photo_as_a_whole():
    class Identity:
        def predict_on_batch(self, x):
            return x

    image = picture(40, 44)
    whole = kc.segmentation.predict(Identity(), image, size=(512, 128))
    windows = kc.segmentation.predict(Identity(), image, size=(512, 128), window=32)
    np.testing.assert_array_equal(windows, whole)


def test_a_picture_below_the_total_stride_is_continued_at_its_edges():
    segmenter = kc.UPerNet(kc.ConvNeXtV2((1, 1), (8, 12), include_top=False), 3, channels=8, auxiliary_channels=0)
    assert segmenter.least_side == (8, 8)
    assert kc.segmentation.predict(segmenter, picture(5, 20)).shape == (5, 20)


def test_memory_is_that_of_a_row_of_windows_whatever_size_the_picture_is_shown_in():
    class Classes:
        def predict_on_batch(self, x):
            return np.repeat(x[..., :1], 100, axis=-1)

    image = picture(600, 160)
    options = {"window": (32, 64), "size": (300, 80)}
    tracemalloc.start()
    try:
        labels = kc.segmentation.predict(Classes(), image, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = labels.size * 100 * 4
    assert peak < whole / 3


def test_a_small_photo_before_a_model_of_one_size_is_continued_at_its_edges():
    network = kc.ConvNeXtV2((1, 1), (8, 12), include_top=False, input_shape=(32, 48, 3))
    segmenter = kc.UPerNet(network, 3, channels=8, auxiliary_channels=0)
    small = picture(20, 40)
    filled = np.pad(small, [(0, 12), (0, 8), (0, 0)], "edge")
    expected = ops.convert_to_numpy(segmenter(filled[None]))[0, :20, :40].argmax(-1)
    functional = keras.Model(network.input, segmenter(network.input))
    for looks in (segmenter, functional):
        for window in (None, (32, 48)):
            np.testing.assert_array_equal(kc.segmentation.predict(looks, small, window=window), expected)
        narrow = kc.segmentation.predict(looks, picture(70, 40), window=(32, 48), flip=True)
        assert narrow.shape == (70, 40)
        with pytest.raises(
            ValueError, match=r"window must be \(32, 48\), the one .* Received: None for .* \(70, 40\)."
        ):
            kc.segmentation.predict(looks, picture(70, 40))
        with pytest.raises(ValueError, match=r"window must be \(32, 48\), the one .* Received: \(32, 32\)."):
            kc.segmentation.predict(looks, small, window=32)


def test_a_small_photo_before_a_compiled_model_of_one_size():
    network = kc.ConvNeXtV2((1, 1), (8, 12), include_top=False, input_shape=(32, 48, 3))
    segmenter = kc.UPerNet(network, 3, channels=8, auxiliary_channels=0)

    class Compiled:  # as the programs': a function that knows no model, and what that model needs
        predict_on_batch = staticmethod(segmenter.predict_on_batch)
        least_side = segmenter.least_side

    found = kc.segmentation.predict(Compiled(), picture(70, 40), window=(32, 48))
    np.testing.assert_array_equal(found, kc.segmentation.predict(segmenter, picture(70, 40), window=(32, 48)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scales": 1.0}, "scales must be one positive factor or more, .* Received: 1.0"),
        ({"scales": (1.0, 0)}, r"scales must be one positive factor or more, .* Received: \(1.0, 0\)"),
        ({"size": 512}, "size must be two sides in whole pixels, of 1 at least. Received: 512"),
        ({"size": (0, 0)}, r"size must be two sides in whole pixels, of 1 at least. Received: \(0, 0\)"),
    ],
)
def test_arguments_of_other_kinds_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        kc.segmentation.predict(model(), picture(), **options)
