"""D-Adaptation Adam against the numbers of the package `dadaptation`, alone and within the whole step."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from training.optimizers import DAdaptAdam
from training.steps import make_step

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "dadapt_adam.npz")
NAMES = ("kernel", "bias", "slow", "quiet")
RULES = (
    ("(.+/)?kernel", 1.0, True),
    ("(.+/)?bias", 1.0, False),
    ("(.+/)?slow", 0.5, True),
    ("(.+/)?quiet", 0.25, False),
)
ROWS = np.array(
    [0.5, 2.0, -1.0, 2.5, 1.5, 0.5], "float32"
)  # what each row of a batch has of a gradient, one on average
to_numpy = ops.convert_to_numpy


def golden(key):
    return [GOLDEN[f"{key}/{name}"] for name in NAMES]


def optimizer():
    return DAdaptAdam(weight_decay=float(GOLDEN["decay"]), rules=RULES)


def assert_golden(groups, run):
    """Every number to 1e-6 of the largest of its tensor."""
    for group in ("weights", "first", "second", "s"):
        for name, ours, theirs in zip(NAMES, groups[group], golden(f"{run}/{group}"), strict=True):
            largest = np.abs(theirs).max()
            np.testing.assert_allclose(to_numpy(ours) / largest, theirs / largest, 0, 1e-6, err_msg=f"{group} {name}")
    for name in ("d", "numerator"):
        assert to_numpy(groups[name][0]) == pytest.approx(GOLDEN[f"{run}/{name}"][-1], rel=1e-6), name


def test_updates_have_the_numbers_of_the_package():
    weights = [keras.Variable(start, name=name) for name, start in zip(NAMES, golden("start"), strict=True)]
    dadapt = optimizer()
    dadapt.build(weights)
    groups = {"weights": weights, **dadapt.groups}
    found = []
    for step, rate in enumerate(GOLDEN["rates"]):
        gradients = [ops.convert_to_tensor(rows[step]) for rows in golden("gradients")]
        values = [[ops.stop_gradient(ops.convert_to_tensor(v)) for v in group] for group in groups.values()]
        news = dadapt.updated(*values, gradients, dadapt.iterations, float(rate))
        for group, new in zip(groups.values(), news, strict=True):
            for variable, value in zip(group, new, strict=True):
                variable.assign(value)
        found.append(to_numpy(dadapt.d[0]))
    np.testing.assert_allclose(found, GOLDEN["plain/d"], rtol=1e-6)
    assert_golden(groups, "plain")


class Weights(keras.layers.Layer):
    """The golden weights, for a model."""

    def build(self, _=None):
        for name, start in zip(NAMES, golden("start"), strict=True):
            self.add_weight(start.shape, keras.initializers.Constant(start), name=name)


def sample_losses(weights, batch):
    """(B,), whose gradients are what stands in the batch."""
    products = [v * batch[v.name] for v in weights.trainable_variables]
    return sum(ops.sum(ops.reshape(p, (p.shape[0], -1)), axis=-1) for p in products)


@pytest.mark.parametrize(
    "run, options",
    [
        ("plain", {}),
        ("plain", {"jit": False}),
        ("clipped", {"accumulation": 3, "clip_norm": float(GOLDEN["clip_norm"])}),
    ],
    ids=["plain", "not compiled", "in parts and clipped"],
)
def test_whole_step_has_the_numbers_of_the_package(run, options):
    weights = Weights()
    weights.build()
    step = make_step(weights, optimizer(), sample_losses, **options)
    state = step.start()
    for rate, *gradients in zip(GOLDEN["rates"], *golden("gradients"), strict=True):
        batch = {name: np.multiply.outer(ROWS, g) for name, g in zip(NAMES, gradients, strict=True)}
        state, _ = step.run(state, step.put(batch), float(rate))
    step.store(state)
    assert_golden(step.groups, run)


def test_nothing_decays_before_the_first_gradient():
    weight = keras.Variable(np.ones(3, "float32"), name="kernel")
    dadapt = DAdaptAdam(weight_decay=0.5, d0=0.1)
    dadapt.build([weight])
    groups = [[ops.convert_to_tensor(v) for v in group] for group in dadapt.groups.values()]
    weights, *_, d, _ = dadapt.updated([ops.ones(3)], *groups, [ops.zeros(3)], dadapt.iterations, 1.0)
    assert to_numpy(weights[0]).tolist() == [1.0, 1.0, 1.0] and to_numpy(d[0]) == np.float32(0.1)


def test_config_keeps_every_argument():
    given = {"learning_rate": 0.5, "weight_decay": 0.3, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-7, "d0": 1e-4}
    config = DAdaptAdam.from_config(DAdaptAdam(**given, rules=RULES).get_config()).get_config()
    assert {key: config[key] for key in given} == pytest.approx(given)
    assert config["rules"] == RULES


def test_one_weight_alone_is_refused():
    weight = keras.Variable(np.ones(3, "float32"), name="kernel")
    with pytest.raises(TypeError, match="must see the gradients of all weights at once. Received: that of 'ke"):
        DAdaptAdam().apply([ops.ones(3)], [weight])
