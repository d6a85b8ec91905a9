import numpy as np
import pytest

from training.evaluation.linear import EPSILON, choose_l2, fit_linear, loss_and_gradient


def draws(count=40, dim=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dim)) * [1, 3, 0.2, 1, 1] + 2, rng.integers(0, classes, count)


def test_the_gradient_is_that_of_finite_differences():
    features, labels = draws()
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(5, 3)), rng.normal(size=(1, 3))
    target = np.eye(3)[labels]
    _, by_kernel, by_bias = loss_and_gradient(features, target, kernel, bias, 0.3)

    def loss(kernel, bias):  # the definition, for one sample at a time
        of_samples = [-np.log(np.exp(x @ kernel + bias[0])[y] / np.exp(x @ kernel + bias[0]).sum()) for x, y in samples]
        return np.mean(of_samples) + 0.15 * (kernel**2).sum()

    samples = list(zip(features, labels, strict=True))
    for place in np.ndindex(5, 3):
        step = np.zeros((5, 3))
        step[place] = 1e-5
        expected = (loss(kernel + step, bias) - loss(kernel - step, bias)) / 2e-5
        assert by_kernel[place] == pytest.approx(expected, abs=1e-7)
    for k in range(3):
        step = np.zeros((1, 3))
        step[0, k] = 1e-5
        expected = (loss(kernel, bias + step) - loss(kernel, bias - step)) / 2e-5
        assert by_bias[0, k] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_gradient_is_zero_where_it_ends(batch_norm):
    features, labels = draws()
    linear = fit_linear(features, labels, classes=3, l2=0.01, batch_norm=batch_norm, gradient=1e-6)
    x = (features - features.mean(0)) / np.sqrt(features.var(0) + EPSILON) if batch_norm else features
    _, by_kernel, by_bias = loss_and_gradient(x, np.eye(3)[labels], linear.kernel, linear.bias[None], 0.01)
    assert linear.converged and max(np.abs(by_kernel).max(), np.abs(by_bias).max()) < 1e-6
    np.testing.assert_allclose(linear(features), x @ linear.kernel + linear.bias)


def test_two_classes_on_one_feature_are_the_solution_by_hand():
    """x = -1, 1 for classes 0, 1 and difference d of the two weights: d / 2 * l2 = 1 / (1 + exp(d))."""
    linear = fit_linear(
        np.array([[-1.0], [1.0]]), np.array([0, 1]), classes=2, l2=0.25, batch_norm=False, gradient=1e-7
    )
    d = linear.kernel[0, 1] - linear.kernel[0, 0]
    assert d / 2 * 0.25 == pytest.approx(1 / (1 + np.exp(d)), abs=1e-5)
    assert linear.bias[1] == pytest.approx(linear.bias[0], abs=1e-5)


def test_the_scale_of_a_feature_is_nothing_to_the_batch_norm():
    features, labels = draws()
    options = {"classes": 3, "l2": 0.01, "gradient": 1e-6}
    ours = fit_linear(features, labels, **options)(features)
    scaled = fit_linear(features * 1000 + 7, labels, **options)(features * 1000 + 7)
    np.testing.assert_allclose(scaled, ours, atol=1e-3)


def test_another_start_ends_in_the_same_place():
    features, labels = draws()
    options = {"classes": 3, "gradient": 1e-6}
    start = fit_linear(features, labels, **options, l2=1.0)
    ours, theirs = (fit_linear(features, labels, **options, l2=0.01, start=first) for first in (start, None))
    np.testing.assert_allclose(ours.kernel, theirs.kernel, atol=2e-3)


def test_the_regulariser_is_the_one_that_tells_most_of_the_held_out_part_right():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 80))
    features[:, 0] += 4 * labels  # one feature knows, 79 are noise
    options = {"classes": 2, "choices": (1e-6, 1.0, 1000.0), "share": 0.25, "seed": 0}
    l2, worth = choose_l2(features[:, None], labels, **options)
    assert l2 in worth and worth[l2] == max(worth.values())
    assert list(worth) == [1000.0, 1.0, 1e-6]
    assert choose_l2(features[:, None], labels, **options) == (l2, worth)
    alike = np.zeros((60, 1, 2))  # every choice tells as many right: the largest
    assert choose_l2(alike, labels, **options)[0] == 1000.0


def test_with_one_picture_a_class_nothing_is_held_out():
    options = {"classes": 3, "choices": (3.0, 1.0, 2.0), "share": 0.2, "seed": 0}
    assert choose_l2(np.eye(3)[:, None], np.arange(3), **options) == (2.0, {})
