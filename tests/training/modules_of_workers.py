"""A program with Keras that prints what its worker process has imported: python -m tests.training.modules_of_workers"""

import sys

import keras  # noqa: F401  the program has it, its workers should not
import numpy as np

from training.data import Augmentation, classification_example, open_source, training_batches
from training.data.augmentation import CROPS
from training.program import spare_workers_the_program

if __name__ == "__main__":
    spare_workers_the_program()
    inner = [classification_example(Augmentation((16, 12), crop)) for crop in CROPS]

    def example(rng, picture, target):
        for each in inner:
            each(rng, picture, target)
        return {"modules": np.array(" ".join(sorted({name.split(".")[0] for name in sys.modules})))}

    sizes = {"batch_size": 2, "seed": 0, "first_step": 0, "steps": 1}
    (batch,) = training_batches(open_source("shapes:8", "train"), example, processes=1, **sizes)
    print(batch["modules"][0])
