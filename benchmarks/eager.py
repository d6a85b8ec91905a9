"""Outside of jit on JAX, against keras.applications' ConvNeXtTiny: `python -m benchmarks.eager`.

`model(x)`, a model cut at an inner layer, and un-jitted steps of `fit`, batch 2 at 224 px, in turns; the first call, in
which programs are compiled, apart.
"""

import functools
import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

import keras_convnextv2 as kc

ROUNDS = 5
OURS, THEIRS = "ConvNeXtV2Tiny", "keras.applications' ConvNeXtTiny"


def models():
    return {OURS: kc.ConvNeXtV2Tiny(classes=5), THEIRS: keras.applications.ConvNeXtTiny(weights=None, classes=5)}


def cut(model):
    """Up to the last map of the second stage, in both."""
    inner = [layer for layer in model.layers if layer.name == "stage_1" or "stage_1_block" in layer.name]
    return keras.Model(model.input, inner[-1].output)


def fitted(model):
    whole = keras.Sequential([keras.Input((224, 224, 3)), model])
    whole.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return whole


def works(images, labels):
    """{work: {contestant: function}}"""

    def each(prepare, run):
        prepared = {name: prepare(model) for name, model in models().items()}
        return {name: functools.partial(run, model) for name, model in prepared.items()}

    return {
        "model(x)": each(lambda model: model, lambda model: model(images)),
        "up to stage 1": each(cut, lambda model: model(images)),
        "fit, un-jitted": each(fitted, lambda model: model.fit(images, labels, batch_size=2, verbose=0)),
    }


def seconds(run):
    start = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(run()))
    return time.perf_counter() - start


def main():
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    print(f"keras {keras.__version__}, jax {jax.__version__}, {os.cpu_count()} cores, float32")
    for work, contestants in works(images, np.array([0, 1])).items():
        first = {name: seconds(run) for name, run in contestants.items()}
        turns = [{name: seconds(run) for name, run in contestants.items()} for _ in range(1 + ROUNDS)][1:]
        median = {name: statistics.median(turn[name] for turn in turns) for name in contestants}
        for name, value in median.items():
            print(f"{work}: {name} {value:.3f} s, first call {first[name]:.1f} s")
        print(f"{work}: ours / theirs {median[OURS] / median[THEIRS]:.2f}", flush=True)


if __name__ == "__main__":
    main()
