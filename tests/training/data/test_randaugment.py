import re

import numpy as np
import pytest
from PIL import Image

from tests.training.data.conftest import GOLDEN
from training.data.randaugment import HIGHEST, NAMES, RESAMPLING, RandAugment

OPERATIONS = [key for key in GOLDEN.files if key.startswith("operations/")]
THEIRS = ("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast")
THEIRS += ("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
POLICY = RandAugment.parse("rand-m9-mstd0.5-inc1", fill=tuple(GOLDEN["policy/fill"].tolist()))


def generators(count):
    return (np.random.default_rng([7, n]) for n in range(count))


def test_all_operations_of_timm_are_compared():
    names = {key.split("/")[1].removesuffix("Increasing") for key in OPERATIONS}
    assert names == set(THEIRS) and len(THEIRS) == len(NAMES) and len(OPERATIONS) == 109


def test_what_moves_is_filtered_as_in_the_pipeline_of_the_paper():
    assert GOLDEN["policy/resample"] == RESAMPLING == Image.Resampling.BICUBIC


@pytest.mark.parametrize("key", OPERATIONS)
def test_operations_equal_timms_to_the_grey_level(key):
    _, theirs, level, sign = key.split("/")
    name = NAMES[THEIRS.index(theirs.removesuffix("Increasing"))]
    policy = RandAugment(increasing=theirs.endswith("Increasing"), fill=POLICY.fill)
    value = policy.value(name, float(level), int(sign))
    done = policy.apply(Image.fromarray(GOLDEN["picture"]), name, value)
    np.testing.assert_array_equal(done, GOLDEN[key])


def test_no_bits_leave_a_black_picture():
    assert f"operations/PosterizeIncreasing/{float(HIGHEST)}/1" not in OPERATIONS  # Pillow 13 refuses
    assert POLICY.value("posterize", HIGHEST, 1) == 0
    assert not np.any(POLICY.apply(Image.fromarray(GOLDEN["picture"]), "posterize", 0))


def standard_errors(difference, deviation, count, golden_count):
    """How many standard errors of the difference of two means."""
    return abs(difference) / (deviation * np.sqrt(1 / count + 1 / golden_count))


def test_draws_are_distributed_as_timms():
    draws = [POLICY.draw(rng) for rng in generators(10_000)]
    flat = [operation for drawn in draws for operation in drawn]
    per_picture = np.bincount([len(drawn) for drawn in draws])
    theirs = GOLDEN["draws/per_picture"]
    # each count of a category deviates by about its square root
    assert (np.abs(per_picture - theirs) < 4 * np.sqrt(per_picture + theirs)).all()
    values = {name: np.array([value or 0.0 for drawn, value in flat if drawn == name]) for name in NAMES}
    counts, golden_counts = np.array([len(values[name]) for name in NAMES]), GOLDEN["draws/per_operation"]
    assert (np.abs(counts - golden_counts) < 4 * np.sqrt(counts + golden_counts)).all()
    for k, name in enumerate(NAMES):
        for change, mean, deviation in (
            (lambda x: x, "draws/mean", "draws/deviation"),
            (np.abs, "draws/mean_size", "draws/size_deviation"),
        ):
            ours, spread = change(values[name]), GOLDEN[deviation][k]
            if spread == 0:
                assert not ours.any(), name
                continue
            away = standard_errors(ours.mean() - GOLDEN[mean][k], spread, len(ours), golden_counts[k])
            assert away < 4, (name, mean)
            # of a variance the deviation is that of the squares, many times it where a value is rare
            squares = (ours - ours.mean()) ** 2
            away = standard_errors(squares.mean() - spread**2, squares.std(), len(ours), golden_counts[k])
            assert away < 4, (name, deviation)


def test_a_policy_is_read_from_its_text():
    full = RandAugment.parse("rand-m7-mstd0.25-inc1-n3-p0.4")
    assert full == RandAugment(magnitude=7, deviation=0.25, increasing=True, count=3, probability=0.4)
    assert RandAugment.parse("rand") == RandAugment()
    assert len(RandAugment.parse("rand-n5-p1").draw(np.random.default_rng(0))) == 5
    assert RandAugment.parse("rand-p0").draw(np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    "text", ["", "augmix-m9", "rand-m11", "rand-m9-x1", "rand-tweights", "rand-n0", "rand-n1.5", "rand-m3-m4", "rand-m"]
)
def test_other_policies_are_refused_in_one_line(text):
    with pytest.raises(
        ValueError, match=rf"such as rand-m9-mstd0.5-inc1, or none\. Received: {re.escape(repr(text))}\."
    ):
        RandAugment.parse(text)


def test_grey_pictures_go_through_all_operations():
    grey = Image.fromarray(GOLDEN["picture"][..., 0])
    policy = RandAugment.parse("rand-m9-inc1", fill=(113,))
    for name in NAMES:
        done = policy.apply(grey, name, policy.value(name, 9.0, 1))
        assert (done.mode, done.size) == ("L", grey.size)
    moved = policy.apply(grey, "translate_x", 0.45)
    assert (np.asarray(moved)[:, -1] == 113).all()
