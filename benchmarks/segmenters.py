"""What each library does for a segmenter: a training step or a label map's logits at full size."""

import numpy as np

from benchmarks.contestants import LEARNING_RATE, keras_versions, torch_step, versions

CLASSES = 150


def pictures(batch, side):
    """Normalised pictures and label maps."""
    rng = np.random.default_rng(0)
    return rng.uniform(-2, 2, (batch, side, side, 3)).astype("float32"), rng.integers(0, CLASSES, (batch, side, side))


def upernet(task, size, batch, side, dtype, jit=None, part="whole"):
    """This package's; `part` "backbone" is its pyramid alone, whose mean is minimised."""
    import keras

    import keras_convnextv2 as kc

    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    shape = {"input_shape": (side, side, 3), "include_preprocessing": False, "dtype": policy}
    backbone = getattr(kc, f"ConvNeXtV2{size.capitalize()}")(include_top=False, **shape)
    images, labels = pictures(batch, side)
    if part == "backbone":
        maps = kc.pyramid(backbone, norm=True)
        means = [keras.layers.GlobalAveragePooling2D()(x) for x in maps.outputs]
        model = keras.Model(maps.input, keras.layers.Concatenate()(means))
        model.compile(keras.optimizers.AdamW(LEARNING_RATE), "mse", jit_compile="auto" if jit is None else jit)
        labels = np.zeros((batch, model.output_shape[-1]), "float32")
    else:
        model = kc.UPerNet(backbone, CLASSES, average="valid")
        model.compile(keras.optimizers.AdamW(LEARNING_RATE), jit_compile="auto" if jit is None else jit)
    if task == "train":
        return lambda: model.train_on_batch(images, labels), keras_versions()
    return lambda: model.predict_on_batch(images), keras_versions()


def transformers_upernet(task, size, batch, side, dtype, compiled=False, part="whole"):
    """transformers', as PyTorch users write a step."""
    from keras_convnextv2.convert.libraries import import_torchvision

    import_torchvision()  # transformers imports it where it is installed
    from transformers import ConvNextV2Backbone, ConvNextV2Config, UperNetConfig, UperNetForSemanticSegmentation

    from keras_convnextv2.sizes import SIZES

    depths, dims = SIZES[size]
    stages = [f"stage{s + 1}" for s in range(len(depths))]
    network = ConvNextV2Config(depths=list(depths), hidden_sizes=list(dims), out_features=stages)
    if part == "backbone":
        model = ConvNextV2Backbone(network)
    else:
        config = {"auxiliary_in_channels": dims[-2], "num_labels": CLASSES}
        model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=network, **config))

    def answer_of(output):
        return output.feature_maps[-1] if part == "backbone" else output.logits

    def loss_of(forward, images, labels):
        if part == "backbone":
            return sum(x.mean((2, 3)).square().mean() for x in forward(images).feature_maps)
        return forward(images, labels=labels).loss

    step = torch_step(model, pictures(batch, side), task, dtype, compiled, answer_of, loss_of)
    return step, versions("transformers", "torch")
