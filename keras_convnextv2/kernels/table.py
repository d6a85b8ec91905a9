"""Which formulation runs where: one question, asked whenever an operation is traced or run.

- "xla": XLA on a CPU (JAX; TensorFlow with `jit_compile`). XLA's CPU backend emits grouped convolutions badly, and
  fuses wide sums into the reductions behind them; a wall stops that.
- "tensorflow": TensorFlow's own operations, without XLA. Its derived gradients make a pass of memory of each step.
- "torch": the torch backend. Channels-last convolutions, ATen's fused norms and GELU.
- "plain": everything else, and every `export_model`. The definition; converters see ordinary operations.
"""

import contextlib
import contextvars
import functools
import inspect
import os

import keras

FORMS = ("plain", "xla", "tensorflow", "torch")
FORM_VARIABLE = "KERAS_CONVNEXTV2_KERNELS"

_plain_operations = contextvars.ContextVar("plain_operations", default=False)


@contextlib.contextmanager
def plain_operations():
    """Everything traced inside uses plain operations: exporters need a depthwise convolution, not a loop."""
    token = _plain_operations.set(True)
    try:
        yield
    finally:
        _plain_operations.reset(token)


def choose(forms, static=True):
    """Return the function of `forms` ({form: function}, always with "plain") that fits the place of this call.

    `static` says whether the sizes are known: it is unrolled over them. The environment variable
    KERAS_CONVNEXTV2_KERNELS forces one form wherever it can run.
    """
    form = "plain" if _plain_operations.get() else forced_form() or _form_here()
    if form not in forms or form == "xla" and not static:
        return forms["plain"]
    return compiled_once(forms[form]) if form == "xla" and keras.backend.backend() == "jax" else forms[form]


@functools.cache
def compiled_once(function):
    """A form that builds branches, loops or gradients, for JAX: outside of `jit` these would be compiled at each call.

    Inside of one it is traced once for all layers of a shape.
    """
    import jax

    parameters = inspect.signature(function).parameters.values()
    static = [p.name for p in parameters if p.name == "epsilon" or p.kind is p.KEYWORD_ONLY]
    return jax.jit(function, static_argnames=static)


def compiled_where_eager(function):
    """The function, on JAX as `compiled_once` has it; arguments by name alone are those it is compiled for."""
    return compiled_once(function) if keras.backend.backend() == "jax" else function


def forced_form():
    form = os.environ.get(FORM_VARIABLE)
    if form and form not in FORMS:
        raise ValueError(f"{FORM_VARIABLE} must be one of {', '.join(FORMS)}. Received: {form!r}.")
    if form == "torch" and keras.backend.backend() != "torch":
        raise ValueError(f"{FORM_VARIABLE}='torch' needs KERAS_BACKEND=torch. Received: {keras.backend.backend()!r}.")
    return form


def _form_here():
    return {"jax": _form_on_jax, "tensorflow": _form_on_tensorflow, "torch": lambda: "torch"}.get(
        keras.backend.backend(), lambda: "plain"
    )()


def _form_on_jax():
    import jax

    return "xla" if jax.default_backend() == "cpu" else "plain"


def transforming():
    """Whether torch runs inside of one of its function transforms (torch.func, forward-mode derivatives) or traces.

    They take ordinary operations only. torch has no public question for the former; its own autograd functions ask so.
    """
    if keras.backend.backend() != "torch":
        return False
    import torch

    return (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _form_on_tensorflow():
    import tensorflow as tf
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    # TensorFlow has no public question for "is this function compiled by XLA?"; its own control flow asks like this.
    compiled = control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())
    if not compiled:
        return "tensorflow"
    on_cpu = not tf.config.get_visible_devices("GPU") and not tf.config.get_visible_devices("TPU")
    return "xla" if on_cpu else "plain"
