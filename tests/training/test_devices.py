"""Two devices do what one does: the CPU is made into two, which TensorFlow and JAX take for devices of their own."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.layers.batch_norm import BatchNorm
from tests.training.small_model import batches, sample_losses, small_model
from tests.training.test_steps import assert_same, run, small_step, values
from training import detect, finetune, pretrain, segment
from training.configs import Finetune
from training.devices import OneDevice, open_devices, require_divisible
from training.optimizers import AdamW, DAdaptAdam
from training.recipes import RECIPES
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
@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, BatchNorm])
def test_batch_statistics_of_the_devices_are_averaged(norm):
    def build(devices):
        with devices.scope():
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [
                    keras.Input((4, 5, 2)),
                    keras.layers.Flatten(),
                    norm(),
                    keras.layers.Dense(3),
                ]
            )
            return make_step(model, AdamW(0.0), sample_losses, devices=devices)

    one, two = build(OneDevice()), build(two_devices())
    for step in (one, two):
        run(step, batches(2, size=8), rate=0.0)
    means = [np.array(keras.ops.convert_to_numpy(step.groups["fixed"][0])) for step in (one, two)]
    np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of its strategies")
@pytest.mark.parametrize("synchronized", [False, True])
def test_plain_fit_averages_moving_statistics_over_replicas(synchronized):
    devices = two_devices()
    with devices.scope():
        model = keras.Sequential([keras.Input((4, 5, 2)), BatchNorm(synchronized=synchronized)])
        model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 4, 5, 2)).astype("float32")
    x[4:] += 3
    model.fit(x, x, batch_size=8, shuffle=False, verbose=0)
    seen = [x] if synchronized else [x[:4], x[4:]]
    variance = np.mean([part.reshape(-1, 2).var(0, ddof=1) for part in seen], axis=0)
    for replica in range(2):
        mean, moved = devices.copy(model.non_trainable_variables, replica)
        np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(moved, 0.9 + 0.1 * variance, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of its strategies")
def test_plain_fit_of_a_segmenter_on_replicas_is_that_of_one():
    x = np.random.default_rng(0).uniform(0, 255, (4, 32, 48, 3)).astype("float32")
    y = np.random.default_rng(1).integers(0, 3, (4, 32, 48))
    found = []
    for devices in (OneDevice(), two_devices()):
        keras.utils.set_random_seed(0)
        with devices.scope():
            network = kc.ConvNeXtV2((1, 1), (4, 6), include_top=False)
            model = kc.UPerNet(network, 3, channels=4, auxiliary_channels=4, dropout=0.0, synchronized=True)
            model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        losses = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
        found.append((losses, model.get_weights()))
    (ours, weights), (theirs, others) = found
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
    largest = max(abs(value).max() for value in weights)
    for value, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(other, value, rtol=0, atol=1e-4 * largest)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of its strategies")
def test_the_loss_of_a_detector_on_replicas_is_a_share_of_it(monkeypatch):
    devices = two_devices()
    with devices.scope():
        network = kc.ConvNeXtV2((1, 1), (4, 6), include_top=False)
        model = kc.MaskRCNN(network, 3, fpn_dim=4, rpn_dim=4, box_dim=4, mask_dim=4)
        monkeypatch.setattr(model, "losses_of", lambda x, y: {"loss": keras.ops.ones(2)})
        assert float(model.compute_loss(y_pred={})) == 0.5
    assert float(model.compute_loss(y_pred={})) == 1


def test_a_batch_that_the_devices_cannot_share_is_refused():
    config, two = dataclasses.replace(CONFIG, batch_size=36, accumulation=4), OneDevice()
    require_divisible(config, two)
    two.count = 2
    with pytest.raises(ValueError, match=r"devices times accumulation, 2 x 4. Received: 36. Nearest: 32"):
        require_divisible(config, two)


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


@pytest.mark.parametrize("program", [pretrain, finetune, segment, detect])
def test_every_program_compares_its_pictures_before_it_builds_a_model(program, monkeypatch):
    class Differing(OneDevice):
        processes = 2

        def of_all(self, number):
            return [number, number + 1]

    name = program.__name__.split(".")[-1]
    monkeypatch.setattr(program, "build", lambda *args: pytest.fail("a model was built"))
    with pytest.raises(ValueError, match="the same pictures, classes and labels in .*shapes.* another in process 1"):
        program.prepare(RECIPES[f"{name}_shapes"], "shapes:12", quiet, Differing())


@pytest.mark.parametrize("program", [pretrain, finetune])
@pytest.mark.parametrize("process", [0, 1, 2])
def test_processes_download_one_after_the_other(program, process, monkeypatch):
    events = []

    class Third(OneDevice):
        processes = 3

        def sum(self, numbers):
            events.append("all wait")
            return super().sum(numbers)

        def require_same_pictures(self, *sources):
            raise EOFError  # all are open

    def opened(data, split, *, download, open_source=program.open_source, **options):
        assert download
        events.append("opened")
        return open_source(data, split, **options)

    devices = Third()
    devices.process = process
    monkeypatch.setattr(program, "open_source", opened)
    name = program.__name__.split(".")[-1]
    with pytest.raises(EOFError):
        program.prepare(dataclasses.replace(RECIPES[f"{name}_shapes"], download=True), "shapes:12", quiet, devices)
    splits = 2 if program is finetune else 1
    assert events == [*["all wait"] * process, *["opened"] * splits, *["all wait"] * (3 - process)]
