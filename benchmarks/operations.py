"""Each operation of a block in each of its forms, forward and with its gradient: `python -m benchmarks.operations`.

On the device that the backend (KERAS_BACKEND) takes, at the four stages of a size. What `kernels.table` should choose
where is read off here; `benchmarks.train_step` says what it is worth.
"""

import argparse
import os
import statistics
import time

import keras
import numpy as np
from keras import ops

from benchmarks.contest import machine
from keras_convnextv2 import kernels
from keras_convnextv2.kernels.table import FORM_VARIABLE, FORMS
from keras_convnextv2.sizes import SIZES

CALLS, REPEATS = 10, 5
EPSILON = 1e-6
BACKEND = keras.backend.backend()


def operations(batch, side, dim, dtype):
    """{name: (function, arguments)} of a block of `dim` channels on maps of side x side."""
    rng = np.random.default_rng(0)

    def draw(*shape, dtype=dtype):
        return ops.cast(ops.convert_to_tensor(rng.normal(size=shape).astype("float32")), dtype)

    wide, exact = 4 * dim, {"dtype": "float32"}
    maps, rows, hidden = draw(batch, side, side, dim), draw(batch, side * side, dim), draw(batch, side * side, wide)
    return {
        "depthwise": (kernels.depthwise, (maps, draw(7, 7, dim, 1), draw(dim))),
        "layer_norm": (lambda x, g, b: kernels.layer_norm(x, g, b, EPSILON), (rows, *(draw(dim, **exact),) * 2)),
        "pointwise": (kernels.pointwise, (rows, draw(dim, wide), draw(wide))),
        "gelu_grn": (lambda x, g, b: kernels.gelu_grn(x, g, b, EPSILON), (hidden, *(draw(wide, **exact),) * 2)),
    }


def prepared(function, arguments):
    """(forward, forward and gradient), each without arguments, and what waits for the device."""
    if BACKEND == "jax":
        import jax

        def both(arguments, slope):
            y, pull = jax.vjp(function, *arguments)
            return y, pull(slope)

        forward, both = jax.jit(function), jax.jit(both)
        slope = forward(*arguments)
        return lambda: forward(*arguments), lambda: both(arguments, slope), jax.block_until_ready
    if BACKEND == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(jit_compile=os.environ[FORM_VARIABLE] in ("xla", "plain"))

        @compiled
        def both():
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                y = function(*arguments)
            return tape.gradient(y, arguments, output_gradients=y)

        return (
            compiled(lambda: function(*arguments)),
            both,
            lambda x: [part.numpy().flat[0] for part in tf.nest.flatten(x)],
        )
    import torch

    arguments = [x.detach().clone().requires_grad_() for x in arguments]
    slope = function(*arguments).detach()

    @torch.no_grad()
    def forward():
        return function(*arguments)

    def wait(_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return forward, lambda: torch.autograd.grad(function(*arguments), arguments, slope), wait


def milliseconds(call, wait):
    """Median of a call, of several calls that the device may work off one behind the other."""
    wait(call())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(CALLS):
            result = call()
        wait(result)
        times.append((time.perf_counter() - start) / CALLS)
    return 1e3 * statistics.median(times)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="tiny", help="atto ... huge")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--side", type=int, default=224, help="pixels of the square images")
    options.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    options.add_argument("--forms", nargs="+", default=[f for f in FORMS if f != "torch" or BACKEND == "torch"])
    options.add_argument("--stages", nargs="+", type=int, default=[1, 2, 3, 4])
    options = options.parse_args()
    print(f"{BACKEND}, {machine()}, batch {options.batch}, {options.dtype}\n")
    print("| operation | map | form | forward, ms | with gradient, ms |\n|---|---|---|---:|---:|")
    for stage in options.stages:
        side, dim = options.side // 2 ** (stage + 1), SIZES[options.size][1][stage - 1]
        for name, (function, arguments) in operations(options.batch, side, dim, options.dtype).items():
            for form in options.forms:
                os.environ[FORM_VARIABLE] = form
                *calls, wait = prepared(function, arguments)
                times = " | ".join(f"{milliseconds(call, wait):.3f}" for call in calls)
                print(f"| {name} | {side}x{side}x{dim} | {form} | {times} |", flush=True)


if __name__ == "__main__":
    main()
