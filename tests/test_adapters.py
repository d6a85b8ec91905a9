"""A ConvNeXt V2 inside of KerasCV's models, where that is installed."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc

if not all(map(importlib.util.find_spec, ("keras_cv", "tensorflow"))):
    pytest.skip("needs keras-cv and the TensorFlow that it imports", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of KerasCV, which is no longer developed
BACKEND = keras.backend.backend()


def network():
    return kc.ConvNeXtV2((1, 1, 1, 1), (4, 6, 8, 10), include_top=False, input_shape=(64, 64, 3))


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_is_refused_in_one_line():
    from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone

    with pytest.raises(ValueError, match="KERAS_BACKEND must be tensorflow or jax. Received: torch."):
        ConvNeXtV2Backbone(network())


@pytest.mark.skipif(BACKEND == "torch", reason="KerasCV does not train on it")
@pytest.mark.parametrize("task", ["ImageClassifier", "DeepLabV3Plus"])
def test_models_of_keras_cv_train_and_are_saved(task, tmp_path):
    import keras_cv

    from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone

    shared = network()
    backbone = ConvNeXtV2Backbone(shared)
    assert backbone.pyramid_level_inputs == {f"P{s + 2}": f"stage_{s}" for s in range(4)}
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    if task == "ImageClassifier":
        model, labels = keras_cv.models.ImageClassifier(backbone=backbone, num_classes=3), np.arange(4) % 3
    else:
        model = keras_cv.models.DeepLabV3Plus(backbone=backbone, num_classes=3)
        labels = np.random.default_rng(1).integers(0, 3, (4, 64, 64, 1))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    before = shared.get_weights()
    model.fit(images, labels, batch_size=2, epochs=2, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, shared.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5)
