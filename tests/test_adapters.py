"""A ConvNeXt V2 inside of KerasCV's and KerasHub's models, where those are installed."""

import importlib
import importlib.util

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc

pytestmark = pytest.mark.filterwarnings("ignore")  # of these packages, one of which is no longer developed
BACKEND = keras.backend.backend()


@pytest.fixture
def keras_cv():
    if not all(map(importlib.util.find_spec, ("keras_cv", "tensorflow"))):
        pytest.skip("needs keras-cv and the TensorFlow that it imports")
    return importlib.import_module("keras_cv")


@pytest.fixture
def keras_hub():
    return pytest.importorskip("keras_hub")


@pytest.fixture
def backbone_class(request):
    """The adapter of the package that a test names; KerasCV's has a test of its own under PyTorch."""
    if request.param == "keras_cv" and BACKEND == "torch":
        pytest.skip("KerasCV does not train on it")
    request.getfixturevalue(request.param)
    return importlib.import_module(f"keras_convnextv2.adapters.{request.param}").ConvNeXtV2Backbone


of_each = pytest.mark.parametrize("backbone_class", ["keras_cv", "keras_hub"], indirect=True)


def network(**options):
    return kc.ConvNeXtV2((1, 1, 1, 1), (4, 6, 8, 10), **{"include_top": False, "input_shape": (64, 64, 3), **options})


def pictures():
    return np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")


def drawn_boxes(labels):
    """A white box in each of four black pictures, and a row of padding behind it; `labels` is the package's word."""
    rng = np.random.default_rng(0)
    images, boxes = np.zeros((4, 64, 64, 3), "float32"), np.zeros((4, 2, 4), "float32")
    classes = np.array([(0, -1), (1, -1), (2, -1), (0, -1)], "float32")
    for image, box in zip(images, boxes, strict=True):
        (x, y), (width, height) = rng.integers(0, 32, 2), rng.integers(16, 32, 2)
        box[0] = x, y, x + width, y + height
        image[y : y + height, x : x + width] = 255
    return images, {"boxes": boxes, labels: classes}


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def learns(model, shared, *data):
    """Fit, and say whether the network's own weights moved and the loss fell.

    All pictures are one batch: RetinaNets divide by a batch's matched anchors, so that its company decides a loss.
    """
    before = shared.get_weights()
    losses = model.fit(*data, batch_size=len(data[0]), epochs=3, verbose=0).history["loss"]
    moved = any(not np.array_equal(a, b) for a, b in zip(before, shared.get_weights(), strict=True))
    return moved and losses[-1] < losses[0]


def numbers(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def assert_same_heads(model, loaded, images):
    """Equal raw predictions, before boxes are decoded and suppressed."""
    ours, theirs = (keras.tree.map_structure(numbers, m(images)) for m in (model, loaded))
    assert len(ours) == 2 and ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-5, err_msg=name)


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_is_refused_in_one_line(keras_cv):
    from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone

    with pytest.raises(ValueError, match="KERAS_BACKEND must be tensorflow or jax. Received: torch."):
        ConvNeXtV2Backbone(network())


@of_each
def test_a_config_makes_the_backbone_again_and_stays_whole(backbone_class):
    backbone = backbone_class(network())
    config = backbone.get_config()
    for _ in range(2):  # Keras empties what it makes a functional model of
        again = backbone_class.from_config(config)
        assert again.get_config() == config == backbone.get_config()


@of_each
def test_what_is_frozen_stays_frozen(backbone_class, tmp_path):
    shared = network()
    shared.get_layer("stage_0").trainable = False
    left = len(shared.trainable_variables)
    backbone = backbone_class(shared)
    assert len(backbone.trainable_variables) == len(reloaded(backbone, tmp_path).trainable_variables) == left
    assert not reloaded(backbone_class(shared, trainable=False), tmp_path).trainable_variables


@of_each
def test_in_half_precision_it_is_the_network(backbone_class, float32_again):
    keras.config.set_dtype_policy("mixed_bfloat16")
    shared = network()
    np.testing.assert_array_equal(*(numbers(m(pictures())) for m in (backbone_class(shared), shared)))


@pytest.mark.skipif(BACKEND == "torch", reason="KerasCV does not train on it")
@pytest.mark.parametrize("task", ["ImageClassifier", "DeepLabV3Plus"])
def test_models_of_keras_cv_train_and_are_saved(keras_cv, task, tmp_path):
    from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone

    shared = network()
    backbone = ConvNeXtV2Backbone(shared)
    assert backbone.pyramid_level_inputs == {f"P{s + 2}": f"stage_{s}" for s in range(4)}
    images = pictures()
    if task == "ImageClassifier":
        model, labels = keras_cv.models.ImageClassifier(backbone=backbone, num_classes=3), np.arange(4) % 3
    else:
        model = keras_cv.models.DeepLabV3Plus(backbone=backbone, num_classes=3)
        labels = np.random.default_rng(1).integers(0, 3, (4, 64, 64, 1))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    before = shared.get_weights()
    model.fit(images, labels, batch_size=2, epochs=2, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, shared.get_weights(), strict=True))
    loaded = reloaded(model, tmp_path)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="KerasCV does not train on it")
def test_retinanet_of_keras_cv_trains_and_is_saved(keras_cv, tmp_path):
    from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone

    shared, (images, objects) = network(), drawn_boxes(labels="classes")
    model = keras_cv.models.RetinaNet(ConvNeXtV2Backbone(shared), num_classes=3, bounding_box_format="xyxy")
    losses = {"box_loss": "smoothl1", "classification_loss": "focal"}
    model.compile(optimizer=keras.optimizers.Adam(1e-4), jit_compile=False, **losses)
    assert learns(model, shared, images, objects)
    assert_same_heads(model, reloaded(model, tmp_path), images)


@pytest.mark.slow
def test_retinanet_of_keras_hub_trains_and_is_saved(keras_hub, tmp_path):
    from keras_convnextv2.adapters.keras_hub import ConvNeXtV2Backbone

    shared, (images, objects) = network(), drawn_boxes(labels="labels")
    levels = {"min_level": 3, "max_level": 5, "use_p5": False}
    neck = keras_hub.models.RetinaNetBackbone(ConvNeXtV2Backbone(shared), image_shape=(64, 64, 3), **levels)
    options = {"bounding_box_format": "xyxy", "pre_logits_num_conv_layers": 1}
    model = keras_hub.models.RetinaNetObjectDetector(neck, num_classes=3, **options)
    model.compile(keras.optimizers.Adam(1e-4))
    assert learns(model, shared, images, objects)
    assert_same_heads(model, reloaded(model, tmp_path), images)


def test_a_classifier_of_keras_hub_trains_and_is_saved(keras_hub, tmp_path):
    from keras_convnextv2.adapters.keras_hub import ConvNeXtV2Backbone

    shared, images = network(), pictures()
    model = keras_hub.models.ImageClassifier(ConvNeXtV2Backbone(shared), num_classes=3)
    model.compile(keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert learns(model, shared, images, np.arange(4) % 3)
    loaded = reloaded(model, tmp_path)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5)


def test_outputs_in_keras_hub_are_the_pyramid(keras_hub):
    from keras_convnextv2.adapters.keras_hub import ConvNeXtV2Backbone

    shared = network(include_top=True, classes=3)
    backbone = ConvNeXtV2Backbone(shared)
    theirs, ours = keras.Model(backbone.inputs, backbone.pyramid_outputs)(pictures()), kc.pyramid(shared)(pictures())
    assert list(theirs) == list(ours) == ["P2", "P3", "P4", "P5"]
    for level in ours:
        np.testing.assert_array_equal(*map(numbers, (theirs[level], ours[level])))


def test_a_preset_of_keras_hub_loads_in_another_dtype(keras_hub, tmp_path):
    from keras_convnextv2.adapters.keras_hub import ConvNeXtV2Backbone

    shared = network()
    ConvNeXtV2Backbone(shared).save_to_preset(str(tmp_path))
    same = keras_hub.models.Backbone.from_preset(str(tmp_path))
    np.testing.assert_array_equal(*map(numbers, (same(pictures()), shared(pictures()))))
    half = keras_hub.models.Backbone.from_preset(str(tmp_path), dtype="mixed_bfloat16")
    other = network(dtype="mixed_bfloat16", weights=shared)
    np.testing.assert_array_equal(*(numbers(m(pictures())) for m in (half, other)))


def test_another_dtype_in_keras_hub_copies_the_network(keras_hub):
    from keras_convnextv2.adapters.keras_hub import ConvNeXtV2Backbone

    shared = network()
    assert ConvNeXtV2Backbone(shared, dtype="float32").variables[0] is shared.variables[0]
    half = ConvNeXtV2Backbone(shared, dtype="bfloat16")
    assert {keras.backend.standardize_dtype(v.dtype) for v in half.variables} == {"bfloat16"}
    first = keras.ops.cast(shared.variables[0], "bfloat16")
    np.testing.assert_array_equal(*map(numbers, (half.variables[0], first)))
