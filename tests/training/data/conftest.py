import pathlib

import numpy as np
import pytest
from PIL import Image

from training.data import Augmentation, classification_example, pretraining_example, training_batches

CLASSES = ("cat", "dog", "eel")
GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "augmentation.npz")


def write_picture(path, seed, size=(24, 20)):
    """A PNG of noise, height and width of `size`; returns its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), "uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """train: 4, 5 and 6 pictures of three classes; test: 2 of each."""
    for split, first, step in (("train", 4, 1), ("test", 2, 0)):
        for label, name in enumerate(CLASSES):
            for number in range(first + step * label):
                write_picture(tmp_path / split / name / f"{number}.png", [split == "test", label, number])
    return tmp_path


def example_of(source, *, image_size, crop="random_resized", crop_scale=(0.2, 1.0), flip=True, mask=None):
    """What programs make of a sample; with `mask`, (patches, visible), pre-training's, and labels where there are."""
    augmentation = Augmentation(image_size, crop, crop_scale, flip)
    masked, plain = pretraining_example(augmentation, *(mask or (1, 1))), classification_example(augmentation)
    if mask is None:
        return plain
    return lambda rng, picture, target: {
        **masked(rng, picture, target),
        **({} if target is None else {"labels": np.int32(target)}),
    }


def batches_of(
    source, *, batch_size, seed, first_step, steps, workers=None, processes=0, mix=None, share=(0, 1), **options
):
    """Training batches as a list."""
    kinds = {"workers": workers, "processes": processes, "mix": mix, "share": share}
    sizes = {"batch_size": batch_size, "seed": seed, "first_step": first_step, "steps": steps}
    return list(training_batches(source, example_of(source, **options), **sizes, **kinds))


def assert_shares_make_up(whole, shares):
    """Batch by batch, the rows of all processes, one process after the other, are those of one process alone."""
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        for part in parts:
            assert part.keys() == batch.keys()
        for key in batch:
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), batch[key])


def assert_close_moments(ours, name):
    """Means and deviations of columns, within 4 standard errors of those of two samples."""
    mean, deviation, count = (GOLDEN[f"{name}_{what}"] for what in ("mean", "deviation", "count"))
    error = np.sqrt(1 / len(ours) + 1 / count)
    np.testing.assert_array_less(np.abs(np.mean(ours, 0) - mean), 4 * deviation * error)
    np.testing.assert_allclose(np.std(ours, 0), deviation, rtol=0.06)
