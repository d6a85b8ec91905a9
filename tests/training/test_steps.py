import math

import keras
import numpy as np
import pytest
from keras import ops

from tests.training.small_model import batches, sample_losses, small_model
from training.optimizers import OPTIMIZERS, AdamW, DAdaptAdam
from training.steps import make_predict, make_step

RATE = 0.05
BACKEND = keras.backend.backend()


def to_numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def run(step, rows, rate=RATE):
    """Runs the batches and returns the reports as numbers."""
    state, reports = step.start(), []
    for batch in rows:
        state, report = step.run(state, step.put(batch), rate)
        reports.append({key: to_numpy(ops.convert_to_tensor(value)).item() for key, value in report.items()})
    step.store(state)
    return reports


def values(step):
    return {key: to_numpy(v) for key, v in step.variables().items()}


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], err_msg=key, **tolerance)


def small_step(random=True, kind=AdamW, **options):
    return make_step(small_model(random=random), kind(RATE), sample_losses, **options)


each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)


def numpy_steps(rows, clip_norm=None, decay=0.05, ema_decay=None):
    """The same training in numpy, with gradients by central differences of the eager model in float64."""
    model = small_model(random=False)
    names = [v.path for v in model.trainable_variables]
    weights = [to_numpy(v).astype("float64") for v in model.trainable_variables]

    def loss(weights, batch):
        kernel, bias, head, head_bias = weights
        x = batch["images"].astype("float64")
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))  # (B, 2, 3, C, 3, 3)
        y = np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias
        erf = np.vectorize(math.erf)
        y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        logits = y.mean(axis=(1, 2)) @ head + head_bias
        logits = logits - logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(logits)), batch["labels"]]
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)

    assert len(names) == 4
    first, second = [[np.zeros_like(w) for w in weights] for _ in range(2)]
    average = [w.copy() for w in weights]
    for t, batch in enumerate(rows, start=1):
        gradients = []
        for i, w in enumerate(weights):
            g = np.zeros_like(w)
            for place in np.ndindex(w.shape):
                moved = [[v.copy() for v in weights] for _ in range(2)]
                moved[0][i][place] += 1e-5
                moved[1][i][place] -= 1e-5
                g[place] = (loss(moved[0], batch) - loss(moved[1], batch)) / 2e-5
            gradients.append(g)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        shrink = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
        for i, g in enumerate(gradients):
            g = g * shrink
            first[i] += 0.1 * (g - first[i])
            second[i] += 0.001 * (g * g - second[i])
            move = (first[i] / (1 - 0.9**t)) / (np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
            weights[i] = weights[i] * (1 - RATE * decay) - RATE * move
            average[i] += (weights[i] - average[i]) * (1 - (ema_decay or 0.0))
    return weights, average


def test_step_equals_the_formula_in_numpy():
    rows = batches(4)
    step = small_step(random=False, clip_norm=0.1, ema_decay=0.8)
    run(step, rows)
    weights, average = numpy_steps(rows, clip_norm=0.1, ema_decay=0.8)
    for ours, theirs in ((step.groups["weights"], weights), (step.average, average)):
        for variable, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(to_numpy(variable), expected, rtol=0, atol=2e-5)


on_xla = pytest.mark.skipif(BACKEND == "torch", reason="the step of torch is eager: there is nothing to compile")


@on_xla
@pytest.mark.parametrize("options", [{}, {"accumulation": 3, "clip_norm": 0.1}], ids=["plain", "in parts"])
def test_compiled_equals_not_compiled(options):
    rows = batches(3)  # nothing random: TensorFlow draws other numbers from one seed inside XLA
    compiled, plain = (small_step(random=False, ema_decay=0.9, jit=jit, **options) for jit in (True, False))
    reports, plain_reports = run(compiled, rows), run(plain, rows)
    assert_same(values(compiled), values(plain), rtol=0, atol=2e-6)
    assert [r["loss"] for r in reports] == pytest.approx([r["loss"] for r in plain_reports], rel=1e-5)


@on_xla
def test_jit_compiles_and_its_absence_does_not():
    """By what only one of the two can do: XLA has no callbacks on TensorFlow; JAX traces a compiled step once."""
    calls = []

    def watched(model, batch):
        if BACKEND == "jax":
            calls.append(batch)
            return sample_losses(model, batch)
        import tensorflow as tf

        losses = sample_losses(model, batch)
        return tf.ensure_shape(tf.py_function(lambda x: calls.append(x) or x, [losses], "float32"), losses.shape)

    compiled, plain = (make_step(small_model(random=False), AdamW(RATE), watched, jit=jit) for jit in (True, False))
    run(plain, batches(3))
    assert len(calls) == 3
    if BACKEND == "jax":
        run(compiled, batches(3))
        assert len(calls) == 3 + 1
    else:
        import tensorflow as tf

        with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations|EagerPyFunc"):
            run(compiled, batches(1))


def test_nothing_is_said_of_how_a_loss_is_written(caplog):
    """AutoGraph warns of what it cannot rewrite, an assignment within an expression for one."""

    def written(model, batch):
        return losses if (losses := sample_losses(model, batch)) is not None else None

    run(make_step(small_model(random=False), AdamW(RATE), written), batches(1))
    assert caplog.text == ""


@on_xla
def test_predictions_are_compiled_where_they_are_asked_to_be():
    images = batches(1)[0]["images"]
    model = small_model(random=False)
    compiled, plain = (make_predict(model, jit=jit)(images) for jit in (True, False))
    np.testing.assert_allclose(to_numpy(compiled), to_numpy(plain), atol=1e-6)


def test_accumulated_equals_plain():
    rows = batches(3)
    plain, parts = small_step(random=False, clip_norm=0.1), small_step(random=False, clip_norm=0.1, accumulation=3)
    plain_reports, reports = run(plain, rows), run(parts, rows)
    assert_same(values(parts), values(plain), rtol=0, atol=2e-6)
    assert [r["loss"] for r in reports] == pytest.approx([r["loss"] for r in plain_reports], rel=1e-5)
    assert [r["grad_norm"] for r in reports] == pytest.approx([r["grad_norm"] for r in plain_reports], rel=1e-5)


def test_accumulation_must_divide_the_batch():
    with pytest.raises(ValueError, match="accumulation must divide the batch of 6. Received: 4"):
        run(small_step(accumulation=4), batches(1))


@each_optimizer
@pytest.mark.parametrize("accumulation", [1, 2])
def test_batch_that_is_not_finite_changes_nothing_but_counters(accumulation, kind):
    good, bad = batches(2), batches(1)[0]
    bad["images"][5, 1, 2, 1] = np.nan
    broken = small_step(ema_decay=0.9, accumulation=accumulation, kind=kind)
    reports = run(broken, [good[0], bad, bad])
    assert [r["applied"] for r in reports] == [True, False, False]
    assert (reports[-1]["skipped"], reports[-1]["streak"]) == (2, 2)
    whole = small_step(ema_decay=0.9, accumulation=accumulation, kind=kind)
    run(whole, good[:1])
    ours, theirs = values(broken), values(whole)
    counters = [key for key in ours if "skipped" in key or "streak" in key]
    assert [ours.pop(key).item() for key in counters] == [2, 2]
    assert [theirs.pop(key).item() for key in counters] == [0, 0]
    assert_same(ours, theirs, rtol=0, atol=0)
    after = run(broken, good[1:])
    assert (after[0]["skipped"], after[0]["streak"], after[0]["applied"]) == (2, 0, True)


def test_random_layers_draw_anew_each_step():
    step = small_step()
    batch = batches(1)
    losses = [report["loss"] for report in run(step, batch * 4, rate=0.0)]
    assert len(set(losses)) == 4


def test_predict_takes_the_model_or_the_given_weights():
    step = small_step(ema_decay=0.5)
    images = batches(1)[0]["images"]
    predict = make_predict(step.model)
    before = to_numpy(predict(images))
    run(step, batches(2))
    np.testing.assert_allclose(to_numpy(predict(images)), to_numpy(step.model(images)), atol=1e-6)
    average = to_numpy(predict(images, step.average))
    assert np.abs(average - before).max() > 1e-3
    assert np.abs(average - to_numpy(predict(images))).max() > 1e-3


def test_keys_do_not_depend_on_automatic_names():
    first = small_step().variables()
    keras.layers.Dense(1)  # counts the automatic names up
    assert small_step().variables().keys() == first.keys()


def test_the_state_of_each_optimizer_has_its_keys():
    """Another key is a checkpoint that no longer loads."""

    def of_optimizer(kind):
        shared = ("weights", "fixed", "average", "counters", "scale")
        return [key for key in small_step(kind=kind).variables() if key.split("/")[0] not in shared]

    def slot(name):
        weights = {"conv_kernel": "3x3x2x3", "conv_bias": "3", "head_kernel": "3x3", "head_bias": "3"}
        return [f"{name}/{i:04d}/{weight}_{name}/{shape}" for i, (weight, shape) in enumerate(weights.items())]

    adamw = slot("first") + slot("second")
    assert of_optimizer(AdamW) == adamw
    assert of_optimizer(DAdaptAdam) == [*adamw, *slot("s"), "d/0000/d/", "numerator/0000/numerator/"]


def test_each_part_of_a_batch_draws_its_own_numbers():
    step = small_step(accumulation=3)
    run(step, batches(2))
    (seeds,) = step.groups["fixed"]
    assert to_numpy(seeds)[1] == 6
