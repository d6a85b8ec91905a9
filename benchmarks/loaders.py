"""Input pipelines of pictures in folders, each through what its users call. Every function returns (one step, facts).

Tasks: "pretrain" (random crop of 20 to 100% of the area, flip, mask of 19 of 49 patches, no labels), "finetune" (8 to
100%, flip, labels) and "recipe" (the same, RandAugment, mixup or cutmix, erasing). A step is some batches. Decoded
pictures are kept where it is said alone.
"""

import itertools

from benchmarks.contestants import versions

SCALES = {"pretrain": (0.2, 1.0), "finetune": (0.08, 1.0), "recipe": (0.08, 1.0)}
PATCH, RATIO = 32, 0.6  # of the mask
POLICY, ERASING, ALPHAS = "rand-m9-mstd0.5-inc1", 0.25, {"mixup": 0.8, "cutmix": 1.0}


def our_pipeline(task, folder, batch, side, workers, batches, keep=False, processes=False, packed=False):
    from keras_convnextv2.layers import visible_count
    from keras_convnextv2.preprocessing import IMAGENET_MEAN, IMAGENET_STD
    from training import data

    pretrain, more, mix = task == "pretrain", {}, None
    if task == "recipe":
        fill = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
        more["change"] = data.RandAugment.parse(POLICY, fill=fill)
        more["erase"] = data.Erasing(ERASING, IMAGENET_MEAN, IMAGENET_STD)
        mix = data.Mixing(**ALPHAS)
    augmentation = data.Augmentation((side, side), crop_scale=SCALES[task], **more)
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
        mix=mix,
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


def timm_pipeline(task, folder, batch, side, workers, batches, prefetcher=False):
    """timm's loader with the "recipe", which yields normalised pictures.

    With its prefetcher 8-bit pictures are mixed (and rounded) in the workers, then normalised and erased in the process
    that trains. Without, they are normalised and erased in the workers, then mixed, as in the reference's training.
    """
    from keras_convnextv2.convert.libraries import import_torchvision

    import_torchvision()
    import torch
    from timm import data
    from timm.data.auto_augment import RandAugment

    mix_kinds = {"mixup_alpha": ALPHAS["mixup"], "cutmix_alpha": ALPHAS["cutmix"], "label_smoothing": 0.1}
    loader = data.create_loader(
        data.ImageDataset(f"{folder}/train"),
        (3, side, side),
        batch,
        is_training=True,
        scale=SCALES[task],
        auto_augment=POLICY,
        interpolation="bicubic",
        re_prob=ERASING,
        re_mode="pixel",
        num_workers=workers,
        device=torch.device("cpu"),
        use_prefetcher=prefetcher,
        collate_fn=data.FastCollateMixup(**mix_kinds) if prefetcher else None,
        use_multi_epochs_loader=True,  # else it starts anew after every 240 pictures
    )
    (policy,) = (step for step in loader.dataset.transform.transforms if isinstance(step, RandAugment))
    for operation in policy.ops:
        if operation.name == "PosterizeIncreasing":  # 0 bits stop it with Pillow 13
            keep = operation.aug_fn
            operation.aug_fn = lambda image, bits, keep=keep, **kinds: keep(image, max(1, bits), **kinds)
    mix = None if prefetcher else data.Mixup(**mix_kinds)

    def endless():
        while True:
            for images, targets in loader:
                yield (images, targets) if mix is None else mix(images, targets)

    return taking(endless(), batches), {**versions("timm", "torch", "torchvision", "pillow"), "images": batch * batches}


def taking(loader, batches):
    """A function that takes so many batches."""

    def step():
        for _ in itertools.islice(loader, batches):
            pass

    return step
