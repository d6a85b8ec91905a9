"""Normalisation of pictures and the names of the ImageNet classes."""

import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.preprocessing import (
    channel_statistics,
    decode_predictions,
    imagenet_classes,
    normalize,
)

# a sample of (index, WordNet id, name): the ends, the two pairs of classes that share a name, names with marks in them
KNOWN = (
    (0, "n01440764", "tench"),
    (2, "n01484850", "great_white_shark"),
    (16, "n01560419", "bulbul"),
    (134, "n02012849", "crane"),
    (517, "n03126707", "crane"),
    (281, "n02123045", "tabby"),
    (638, "n03710637", "maillot"),
    (639, "n03710721", "maillot"),
    (739, "n03992509", "potter's_wheel"),
    (989, "n12620546", "hip"),
    (994, "n13040303", "stinkhorn"),
    (996, "n13052670", "hen-of-the-woods"),
    (999, "n15075141", "toilet_tissue"),
)


def pictures(channels, dtype):
    return np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_any_number_type_is_normalised_in_float32(dtype):
    x = pictures(3, dtype)
    y = normalize(x)
    expected = (x.astype("float64") / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_tensors_give_what_arrays_give():
    x = pictures(3, "uint8")
    y = normalize(ops.convert_to_tensor(x))
    assert not isinstance(y, np.ndarray)
    np.testing.assert_allclose(ops.convert_to_numpy(y), normalize(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_use_the_mean_of_the_rgb_statistics(channels):
    mean, std = channel_statistics(channels)
    np.testing.assert_allclose(mean, [(0.485 + 0.456 + 0.406) / 3] * channels)
    np.testing.assert_allclose(std, [(0.229 + 0.224 + 0.225) / 3] * channels)
    assert normalize(pictures(channels, "uint8")).shape == (2, 5, 7, channels)


def test_given_statistics_are_used():
    y = normalize(pictures(2, "uint8"), mean=(0.1, 0.2), std=(0.5, 0.25))
    np.testing.assert_allclose(y, (pictures(2, "float64") / 255 - [0.1, 0.2]) / [0.5, 0.25], rtol=0, atol=1e-6)


def test_wrong_number_of_statistics_is_one_line():
    with pytest.raises(ValueError, match=r"mean must hold one number per channel \(4.*mean=\(0.1, 0.2, 0.3\)") as error:
        channel_statistics(4, mean=(0.1, 0.2, 0.3))
    assert "\n" not in str(error.value)


def test_std_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"std must be positive.*std=\(1.0, 0.0\)"):
        channel_statistics(2, mean=(0.0, 0.0), std=(1.0, 0.0))


def test_a_matrix_is_no_picture():
    with pytest.raises(ValueError, match=r"\(H, W, C\).*\(5, 7\)"):
        normalize(np.zeros((5, 7)))


def test_class_list_is_complete_and_sorted():
    ids = [wnid for wnid, _ in imagenet_classes()]
    assert len(ids) == 1000 and ids == sorted(set(ids))


@pytest.mark.parametrize("index, wnid, name", KNOWN)
def test_known_classes_stand_at_their_index(index, wnid, name):
    assert imagenet_classes()[index] == (wnid, name)


def test_best_classes_come_first():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [281, 2]] = 0.75, 0.25
    scores[1, 999] = 1.0
    first, second = decode_predictions(ops.convert_to_tensor(scores), top=2)
    assert first == [("n02123045", "tabby", 0.75), ("n01484850", "great_white_shark", 0.25)]
    assert second[0] == ("n15075141", "toilet_tissue", 1.0) and len(second) == 2


@pytest.mark.parametrize("shape", [(1000,), (2, 999), (2, 1, 1000)])
def test_other_shapes_have_no_names(shape):
    with pytest.raises(ValueError) as error:
        decode_predictions(np.zeros(shape))
    assert "(N, 1000)" in str(error.value) and str(shape) in str(error.value)


def test_top_out_of_range_is_one_line():
    with pytest.raises(ValueError, match=r"top must be in \[1, 1000\]. Received: 0"):
        decode_predictions(np.zeros((1, 1000)), top=0)


def test_preprocess_input_returns_what_it_gets():
    x = pictures(3, "uint8")
    assert kc.preprocess_input(x) is x and kc.preprocess_input(x, data_format="channels_last") is x


def test_own_class_names():
    scores = np.array([[0.1, 0.7, 0.2]], "float32")
    (found,) = decode_predictions(scores, class_names=["cat", "dog", "crane"])
    assert [(number, name) for number, name, _ in found] == [(1, "dog"), (2, "crane"), (0, "cat")]
    assert decode_predictions(scores, top=1, class_names=("cat", "dog", "crane"))[0][0][2] == np.float32(0.7)
    with pytest.raises(ValueError, match=r"shape \(N, 2\), one a class name. Received: shape \(1, 3\)"):
        decode_predictions(scores, class_names=["cat", "dog"])
