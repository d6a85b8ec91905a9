"""Input pipelines of pictures in folders, each through what its users call. Every function returns (one step, facts).

Tasks: "pretrain" (random crop of 20 to 100% of the area, flip, mask of 19 of 49 patches, no labels) and "finetune"
(8 to 100%, flip, labels). A step is some batches. Decoded pictures are kept where it is said alone.
"""

import itertools

from benchmarks.contestants import versions

SCALES = {"pretrain": (0.2, 1.0), "finetune": (0.08, 1.0)}
PATCH, RATIO = 32, 0.6  # of the mask


def our_pipeline(task, folder, batch, side, workers, batches, keep=False, processes=False, packed=False):
    from keras_convnextv2.layers import visible_count
    from training import data

    augmentation, pretrain = data.Augmentation((side, side), crop_scale=SCALES[task]), task == "pretrain"
    patches = (side // PATCH) ** 2
    masked = data.pretraining_example(augmentation, patches, visible_count(patches, RATIO))
    data_text = f"records:{folder}/packed" if packed else f"folder:{folder}"
    loader = data.training_batches(
        data.open_source(data_text, "unlabelled" if pretrain else "train", keep=keep),
        masked if pretrain else data.classification_example(augmentation),
        batch_size=batch,
        seed=0,
        first_step=0,
        steps=1_000_000,
        **{"processes" if processes else "workers": workers},
    )
    return taking(loader, batches), {**versions("grain", "pillow"), "images": batch * batches}


def torch_pipeline(task, folder, batch, side, workers, batches, floats=False):
    """A PyTorch DataLoader with Pillow and torchvision; `floats` divides by 255 in the workers (ToTensor)."""
    import torch

    from keras_convnextv2.convert.libraries import import_torchvision
    from keras_convnextv2.layers import visible_count

    import_torchvision()
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(side, SCALES[task], interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor() if floats else transforms.PILToTensor(),
    ]
    pictures = datasets.ImageFolder(f"{folder}/train", transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(
        pictures, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    patches = (side // PATCH) ** 2

    def endless():
        while True:
            for images, labels in loader:
                if task == "pretrain":  # as the reference does, in the process that trains
                    noise = torch.rand(len(images), patches)
                    yield images, noise.argsort(1)[:, : visible_count(patches, RATIO)].sort(1).values
                else:
                    yield images, labels

    return taking(endless(), batches), {**versions("torch", "torchvision", "pillow"), "images": batch * batches}


def taking(loader, batches):
    """A function that takes so many batches."""

    def step():
        for _ in itertools.islice(loader, batches):
            pass

    return step
