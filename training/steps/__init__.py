"""The training step: its one order, and for each backend what only it can say."""

import importlib

import keras

from training.devices import ONE

BACKENDS = ("tensorflow", "jax", "torch")


def _backend():
    name = keras.backend.backend()
    if name not in BACKENDS:
        raise ValueError(f"Training runs on one of {BACKENDS}. Received: KERAS_BACKEND={name!r}.")
    return importlib.import_module(f"training.steps.{name}")


def make_step(
    model,
    optimizer,
    sample_losses,
    *,
    accumulation=1,
    clip_norm=None,
    ema_decay=None,
    scaled_loss=False,
    jit=None,
    devices=ONE,
):
    """A Step of the running backend (the protocol is written down in step.py).

    Args:
        model: a built keras model.
        optimizer: one of `training.optimizers.OPTIMIZERS`; it is built here if it was not.
        sample_losses: (model, batch) -> (B,) losses in keras.ops; their mean is minimised.
        accumulation: a batch is worked off in this many equal parts, then the weights are updated once.
        clip_norm: the whole gradient is shortened to this norm; None: never.
        ema_decay: keep `a = decay * a + (1 - decay) * w` of all trained weights after each update; None: no average.
        scaled_loss: multiply the loss by a scale of its own making, as float16 needs.
        jit: let XLA compile, where the backend has it; None: where it pays.
        devices: from `open_devices`, in whose scope the model was made.
    """
    jit = _backend().jit_pays() if jit is None else jit
    options = {"accumulation": accumulation, "clip_norm": clip_norm, "ema_decay": ema_decay, "jit": jit}
    options |= {"scaled_loss": scaled_loss, "devices": devices}
    return _backend().Step(model, optimizer, sample_losses, **options)


def make_predict(model, *, jit=None, devices=ONE):
    """`predict(images, weights=None) -> outputs`, compiled; `weights` (as `step.average`) stand in for the model's.

    Of several processes each gives its own images, as many as the others.
    """
    return _backend().make_predict(model, _backend().jit_pays() if jit is None else jit, devices)
