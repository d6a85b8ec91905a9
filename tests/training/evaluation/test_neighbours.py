import numpy as np

from training.evaluation.neighbours import neighbour_votes


def clusters(count, seed, centres=3, dim=6):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % centres
    return np.eye(centres, dim)[labels] * 5 + rng.normal(size=(count, dim)), labels


def test_separate_clusters_are_told_apart():
    (train, labels), (test, expected) = clusters(60, 0), clusters(31, 1)
    votes = neighbour_votes(train, labels, test, classes=3, k=5)
    assert votes.shape == (31, 3) and votes.argmax(axis=1).tolist() == expected.tolist()


def test_votes_equal_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr("training.evaluation.neighbours.AT_ONCE", 90)  # some rows at a time
    rng = np.random.default_rng(0)
    train, test, labels = rng.normal(size=(40, 7)), rng.normal(size=(11, 7)), rng.integers(0, 4, 40)
    votes = neighbour_votes(train, labels, test, classes=4, k=6, temperature=0.2)
    for row, found in zip(test, votes, strict=True):
        cosine = [float(row @ other / np.sqrt(row @ row * (other @ other))) for other in train]
        nearest = sorted(range(40), key=lambda i: -cosine[i])[:6]
        expected = np.zeros(4)
        for i in nearest:
            expected[labels[i]] += np.exp((cosine[i] - cosine[nearest[0]]) / 0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_near_neighbour_outvotes_two_far_ones_and_length_does_not_count():
    train = np.array([[1.0, 0.0], [50.0, 90.0], [50.0, 90.0]])
    votes = neighbour_votes(train, [0, 1, 1], np.array([[3.0, 1.0]]), classes=2, k=20)  # k: all there are
    assert votes.argmax() == 0
    even = neighbour_votes(train, [0, 1, 1], np.array([[3.0, 1.0]]), classes=2, temperature=100.0)
    assert even.argmax() == 1
