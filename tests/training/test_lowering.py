"""The steps of the programs as compilers see them, without the device that they are for."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2 import kernels
from tests.training.test_detect import CONFIG as DETECT
from tests.training.test_programs import DATA, FINETUNE, PRETRAIN, quiet
from training import detect, finetune, pretrain
from training.devices import ONE
from training.run import make_step_of

BACKEND = keras.backend.backend()
PROGRAMS = {
    "pretrain": (pretrain.prepare, PRETRAIN),
    "finetune": (finetune.prepare, FINETUNE),
    "detect": (detect.prepare, DETECT),
}
SLOW = {"detect": pytest.mark.slow}  # minutes of compilation
programs = pytest.mark.parametrize("program", [pytest.param(name, marks=SLOW.get(name, ())) for name in PROGRAMS])


def step_and_batch(program, **changes):
    """The step of a program with everything on, and rows for it."""
    prepare, config = PROGRAMS[program]
    config = type(config)(**{**vars(config), "accumulation": 2, "clip_norm": 0.5, "ema": 0.9, **changes})
    task = prepare(config, DATA, quiet, ONE)
    rng = np.random.default_rng(0)
    sample = task.source.readable(0, lambda picture, label: task.example(rng, picture, label))
    sample.pop("substituted", None)
    rows = {key: np.stack([value] * config.batch_size) for key, value in sample.items()}
    return make_step_of(config, task, 0.9, ONE), rows


@pytest.mark.skipif(BACKEND != "jax", reason="jax.export is JAX's")
@programs
def test_the_whole_step_lowers_for_a_tpu(program):
    import jax
    from jax import export

    step, rows = step_and_batch(program, dtype="mixed_bfloat16")
    with kernels.plain_operations():  # what is picked where there is no CPU
        exported = export.export(jax.jit(step.one), platforms=["tpu"])(step.read(), rows, np.float32(0.1))
    assert exported.platforms == ("tpu",)
    assert "custom_call" not in exported.mlir_module()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA in TensorFlow")
@programs
def test_the_step_compiles_with_static_shapes_alone(program):
    step, rows = step_and_batch(program, jit=True)
    concrete = step.gradients.get_concrete_function(*arguments(step, rows))
    shapes = [t.shape for t in (*concrete.inputs, *concrete.outputs) if t.dtype.is_numpy_compatible]
    assert shapes and all(shape.is_fully_defined() for shape in shapes)
    _, report = step.run(None, step.put(rows), 0.1)
    assert np.isfinite(ops.convert_to_numpy(report["loss"]))


def test_a_detector_steps_in_float16():
    step, rows = step_and_batch("detect", dtype="mixed_float16", accumulation=1)
    state, before = step.start(), [ops.convert_to_numpy(v) for v in step.model.trainable_variables]
    for _ in range(3):  # a scale that is too large at first is halved
        state, report = step.run(state, step.put(rows), 0.01)
    step.store(state)
    assert int(report["skipped"]) < 3 and np.isfinite(ops.convert_to_numpy(report["loss"]))
    after = [ops.convert_to_numpy(v) for v in step.model.trainable_variables]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in after)
    assert any((x != y).any() for x, y in zip(before, after, strict=True))


def arguments(step, rows):
    values = step.read()
    part = {key: value[: len(value) // step.accumulation] for key, value in step.put(rows).items()}
    return values["weights"], values["fixed"], part, 8.0
