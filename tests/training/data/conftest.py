import numpy as np
import pytest
from PIL import Image

CLASSES = ("cat", "dog", "eel")


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
