"""Two devices do what one does: the CPU is made into two, which TensorFlow and JAX take for devices of their own."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from tests.training.small_model import batches, sample_losses, small_model
from tests.training.test_steps import assert_same, run, small_step, values
from training.configs import Finetune
from training.devices import OneDevice, open_devices
from training.optimizers import AdamW, DAdaptAdam
from training.steps import make_predict, make_step

BACKEND = keras.backend.backend()
several = pytest.mark.skipif(BACKEND == "torch", reason="trains on one device")
CONFIG = Finetune(size="atto", batch_size=24, devices=2)
FOUND = functools.partial(DAdaptAdam, d0=0.02)  # the usual 1e-6 would move hardly anything in so few steps
OPTIONS = {"accumulation": 2, "clip_norm": 0.05, "ema_decay": 0.9}


def quiet(text, progress=False):
    """Takes the lines of a run."""


def two_devices(**changes):
    return open_devices(dataclasses.replace(CONFIG, **changes), quiet)


def step_on(devices, optimizer=AdamW, **options):
    with devices.scope():
        model = small_model(random=False)
        return make_step(model, optimizer(0.05), sample_losses, devices=devices, **options)


@several
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, OPTIONS, {**OPTIONS, "scaled_loss": True}, {**OPTIONS, "optimizer": FOUND}],
    ids=["plain", "all", "scaled", "dadapt"],
)
def test_twenty_steps_on_two_devices_are_those_of_one(options, jit):
    rows = batches(20, size=8)
    one, two = (step_on(devices, **options, jit=jit) for devices in (OneDevice(), two_devices()))
    reports = [run(step, rows) for step in (one, two)]
    ours, theirs = values(one), values(two)
    for key in ours:
        scale = max(1e-3, np.abs(ours[key]).max())
        np.testing.assert_allclose(theirs[key] / scale, ours[key] / scale, atol=1e-5, err_msg=key)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(*([report[name] for report in of] for of in reports), rtol=1e-4)


@several
@pytest.mark.parametrize("row", [0, 7])  # of the first device, of the second
def test_a_bad_sample_of_any_device_skips_the_step_on_all(row):
    rows = batches(3, size=8)
    rows[1]["images"][row, 0, 0, 0] = np.inf
    one, two = (step_on(devices, ema_decay=0.9) for devices in (OneDevice(), two_devices()))
    reports = [run(step, rows) for step in (one, two)]
    assert [report["applied"] for report in reports[1]] == [True, False, True]
    assert_same(values(one), values(two), rtol=1e-4, atol=1e-6)


def signed_sum(model, batch):
    return batch["signs"] * keras.ops.sum(model(batch["images"], training=True), axis=-1)


def stepped(devices, signs):
    """(loss of a step, seeds after it) of a model with random numbers in it, on equal pictures."""
    with devices.scope():
        model = small_model()
        model.averages_samples = True  # as of a detector: on JAX each device computes its own losses
        step = make_step(model, AdamW(0.0), signed_sum, devices=devices)
    images = np.repeat(batches(1, size=1)[0]["images"], len(signs), axis=0)
    (report,) = run(step, [{"images": images, "signs": np.array(signs, "float32")}], rate=0.0)
    (seeds,) = (value for key, value in values(step).items() if "seed" in key)
    return report["loss"], seeds


@several
def test_devices_draw_numbers_of_their_own():
    one, seeds = stepped(OneDevice(), [1])
    for signs, same in (([1, 0], True), ([0, 1], False)):
        loss, after = stepped(two_devices(), signs)
        assert (2 * loss == pytest.approx(one, rel=1e-5)) == same  # the first draws what one alone draws
        np.testing.assert_array_equal(after, seeds)


@several
@pytest.mark.parametrize("count", [6, 7])
def test_predictions_of_two_devices_are_those_of_one(count):
    images = batches(1, size=count)[0]["images"]
    answers = []
    for devices in (OneDevice(), two_devices()):
        with devices.scope():
            model = small_model()
        answers.append(keras.ops.convert_to_numpy(make_predict(model, devices=devices)(images)))
    assert answers[1].shape == (count, 3)
    np.testing.assert_allclose(*answers, rtol=1e-6, atol=1e-6)


@several
def test_batch_statistics_of_the_devices_are_averaged():
    def build(devices):
        with devices.scope():
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [
                    keras.Input((4, 5, 2)),
                    keras.layers.Flatten(),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dense(3),
                ]
            )
            return make_step(model, AdamW(0.0), sample_losses, devices=devices)

    one, two = build(OneDevice()), build(two_devices())
    for step in (one, two):
        run(step, batches(2, size=8), rate=0.0)
    means = [np.array(keras.ops.convert_to_numpy(step.groups["fixed"][0])) for step in (one, two)]
    np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-6)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    devices = 1 if BACKEND == "torch" else 2
    message = rf"devices times accumulation, {devices} x 4. Received: 36. Nearest: 32" if devices == 2 else None
    config = dataclasses.replace(CONFIG, batch_size=36, accumulation=4)
    if message is None:
        assert open_devices(config, quiet).count == 1
        return
    with pytest.raises(ValueError, match=message):
        open_devices(config, quiet)


@several
def test_more_devices_than_there_are_are_refused():
    keras.ops.ones(1)  # from here on there are two
    with pytest.raises(ValueError, match="devices must be at most 2, the .* there are. Received: 3."):
        two_devices(devices=3)


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_says_that_it_takes_one():
    lines = []
    assert open_devices(CONFIG, lines.append).count == 1
    assert lines == ["torch trains on one device here, not on 2: TensorFlow and JAX take more"]


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its own")
def test_a_strategy_is_tensorflows():
    with pytest.raises(ValueError, match=f"strategy is TensorFlow's; {BACKEND} needs auto. Received: 'mirrored'"):
        two_devices(strategy="mirrored")


@pytest.mark.parametrize("scaled", [False, True])
def test_a_scaled_loss_changes_nothing_but_survives_an_overflow(scaled):
    rows = batches(4)
    step = small_step(random=False, clip_norm=0.05, scaled_loss=scaled)
    plain = small_step(random=False, clip_norm=0.05)
    rows[1]["images"][0, 0, 0, 0] = np.inf
    reports, plain_reports = run(step, rows), run(plain, rows)
    ours, theirs = values(step), values(plain)
    scales = {key: ours.pop(key) for key in list(ours) if key.startswith("scale/")}
    streaks = [[report["streak"] for report in of] for of in (reports, plain_reports)]
    assert streaks == [[0, 0 if scaled else 1, 0, 0], [0, 1, 0, 0]]
    assert list(scales.values()) == ([2.0**14, 2] if scaled else [])
    assert_same(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_scale_grows_after_good_steps_and_counts_as_bad_at_one(monkeypatch):
    monkeypatch.setattr("training.steps.step.SCALE_STEPS", 3)
    step = small_step(random=False, scaled_loss=True)
    run(step, batches(4))
    assert [float(v) for v in map(keras.ops.convert_to_numpy, step.groups["scale"])] == [2.0**16, 1]
    step.groups["scale"][0].assign(2.0)
    bad = batches(3)
    for batch in bad:
        batch["images"][:] = np.nan
    assert [report["streak"] for report in run(step, bad)] == [0, 1, 2]
    assert float(keras.ops.convert_to_numpy(step.groups["scale"][0])) == 1
