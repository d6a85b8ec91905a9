"""A program with Keras that prints what its worker process has imported: python -m tests.training.modules_of_workers"""

import sys

import keras  # noqa: F401  the program has it, its workers should not
import numpy as np

from training.data import (
    Augmentation,
    ColorJitter,
    Erasing,
    RandAugment,
    classification_example,
    open_source,
    training_batches,
)
from training.data.augmentation import CROPS
from training.program import spare_workers_the_program

if __name__ == "__main__":
    spare_workers_the_program()
    erase = Erasing(1.0, (0.5,) * 3, (0.2,) * 3)
    changes = (RandAugment(probability=1.0), ColorJitter(0.4), None)
    kinds = [
        Augmentation((16, 12), crop, change=change, erase=erase) for crop, change in zip(CROPS, changes, strict=True)
    ]
    inner = [classification_example(kind) for kind in kinds]

    def example(rng, picture, target):
        for each in inner:
            each(rng, picture, target)
        return {"modules": np.array(" ".join(sorted({name.split(".")[0] for name in sys.modules})))}

    sizes = {"batch_size": 2, "seed": 0, "first_step": 0, "steps": 1}
    (batch,) = training_batches(open_source("shapes:8", "train"), example, processes=1, **sizes)
    print(batch["modules"][0])
