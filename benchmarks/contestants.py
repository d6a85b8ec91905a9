"""What each library does for a task, through what its users call. Every function returns (one step, facts).

Tasks: "train" (forward, loss, gradients, AdamW), "fit" (the same through `model.fit`), "predict". What takes
several steps at once says how many in its facts: "steps".
"""

import functools
import importlib.metadata

import numpy as np

CLASSES = 1000
LEARNING_RATE = 1e-3
STEPS_OF_FIT = 8


def pictures(batch, side):
    rng = np.random.default_rng(0)
    images = rng.uniform(-2, 2, (batch, side, side, 3)).astype("float32")  # normalised: nobody preprocesses
    return images, rng.integers(0, CLASSES, batch)


def versions(*names):
    return {"versions": {name: importlib.metadata.version(name) for name in names}}


def keras_versions():
    import keras

    backend = keras.backend.backend()
    package = {"tensorflow": ("tensorflow", "tensorflow-cpu")}.get(backend, (backend,))
    installed = [name for name in package if _installed(name)]
    return versions("keras", *installed[:1])


def _installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def keras_step(model, task, batch, side, jit=None):
    """A Keras model's train_on_batch, predict_on_batch, or a fit of several steps; and the facts."""
    import keras

    images, labels = pictures(batch, side)
    optimizer = keras.optimizers.AdamW(LEARNING_RATE)
    if task != "predict":
        optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile="auto" if jit is None else jit,
    )
    if task == "fit":
        many, answers = np.tile(images, (STEPS_OF_FIT, 1, 1, 1)), np.tile(labels, STEPS_OF_FIT)
        step = functools.partial(model.fit, many, answers, batch_size=batch, verbose=0)
        return step, {**keras_versions(), "steps": STEPS_OF_FIT}
    images, labels = map(keras.ops.convert_to_tensor, (images, labels))  # on the device, as the others have them
    if task == "train":
        return lambda: model.train_on_batch(images, labels), keras_versions()
    return lambda: model.predict_on_batch(images), keras_versions()


def package(task, size, batch, side, dtype, jit=None, **options):
    import keras_convnextv2 as kc

    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    model = getattr(kc, f"ConvNeXtV2{size.capitalize()}")(
        input_shape=(side, side, 3), include_preprocessing=False, classifier_activation=None, dtype=policy, **options
    )
    return keras_step(model, task, batch, side, jit)


def stock_keras(task, size, batch, side, dtype, jit=None):
    from benchmarks.stock import stock_model

    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    return keras_step(stock_model(size, side, CLASSES, policy), task, batch, side, jit)


def transformers(task, size, batch, side, dtype, compiled=False):
    from keras_convnextv2.convert.libraries import import_torchvision

    import_torchvision()  # transformers imports it where it is installed
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    from keras_convnextv2.sizes import SIZES

    depths, dims = SIZES[size]
    config = ConvNextV2Config(depths=list(depths), hidden_sizes=list(dims), num_labels=CLASSES, image_size=side)
    model = ConvNextV2ForImageClassification(config)
    step = torch_classifier_step(model, lambda output: output.logits, task, batch, side, dtype, compiled)
    return step, versions("transformers", "torch")


def timm(task, size, batch, side, dtype, compiled=False):
    from keras_convnextv2.convert.libraries import import_torchvision

    import_torchvision()
    import timm

    model = timm.create_model(f"convnextv2_{size}", num_classes=CLASSES)
    step = torch_classifier_step(model, lambda output: output, task, batch, side, dtype, compiled)
    return step, versions("timm", "torch")


def torch_step(model, data, task, dtype, compiled, answer_of, loss_of):
    """A training or inference step as PyTorch users write it: channels-last memory, autocast for half precision.

    Args:
        data: (images, labels) as arrays.
        answer_of: output of the model -> a tensor, the answer.
        loss_of: (forward, images, labels) -> scalar.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, memory_format=torch.channels_last)
    images, labels = map(torch.from_numpy, data)
    images = images.permute(0, 3, 1, 2).to(device)  # a view: channels-last memory
    labels = labels.to(device)
    forward = torch.compile(model) if compiled else model
    half = {"device_type": device, "dtype": torch.bfloat16, "enabled": dtype == "bfloat16"}
    if task == "predict":
        model.eval()

        def predict():
            with torch.inference_mode(), torch.autocast(**half):
                answer = answer_of(forward(images))
            return answer.float().cpu().numpy()

        return predict
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)

    def train():
        optimizer.zero_grad()
        with torch.autocast(**half):
            loss = loss_of(forward, images, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def torch_classifier_step(model, logits_of, task, batch, side, dtype, compiled):
    """`torch_step` of a classifier."""
    import torch.nn.functional as F

    def loss_of(forward, images, labels):
        return F.cross_entropy(logits_of(forward(images)).float(), labels)

    return torch_step(model, pictures(batch, side), task, dtype, compiled, logits_of, loss_of)
