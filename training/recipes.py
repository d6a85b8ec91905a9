"""The recipes: the paper's tables as data, and settings that work on a CPU with small pictures.

One column of a table is one recipe. Sources: ConvNeXt V2 (arXiv 2301.00808), tables 8 to 13, and the released
TRAINING.md. Where they disagree, the value that was run is taken and the comment beside it says so.
"""

import dataclasses

from keras_convnextv2.sizes import SIZES
from training.configs import Finetune, Pretrain
from training.fields import nearest

RANDAUGMENT = "rand-m9-mstd0.5-inc1"


def columns(names, **rows):
    """{column name: {row name: value}}"""
    return {name: {row: values[i] for row, values in rows.items()} for i, name in enumerate(names)}


# Table 8. 1600 epochs made the published weights, 800 the ablations. Flips are in the code, not in the table.
ALL_SIZES = tuple(SIZES)
FCMAE = {size: Pretrain(size=size) for size in ALL_SIZES}

# Tables 9 to 11, from FCMAE weights on ImageNet-1K at 224. base_lr of Base and Large is
# printed as 6.25e-3, which is ten times the command line; that of Huge (1.25e-3) may carry the same slip: nobody knows.
IN1K = columns(
    ALL_SIZES,
    epochs=(600, 600, 600, 600, 300, 100, 100, 50),
    warmup_epochs=(0.0, 0.0, 0.0, 0.0, 40.0, 20.0, 20.0, 10.0),
    base_lr=(2e-4, 2e-4, 2e-4, 2e-4, 8e-4, 6.25e-4, 6.25e-4, 1.25e-3),
    layer_decay=(0.9, 0.9, 0.9, 0.9, 0.9, 0.6, 0.6, 0.75),
    layer_decay_type=("single", "single", "single", "single", "single", "group", "group", "single"),
    weight_decay=(0.3, 0.05, 0.3, 0.3, 0.05, 0.05, 0.05, 0.05),
    drop_path_rate=(0.1, 0.0, 0.0, 0.1, 0.2, 0.1, 0.2, 0.3),
    mixup=(0.0, 0.3, 0.3, 0.5, 0.8, 0.8, 0.8, 0.8),
    cutmix=(0.0, 0.3, 0.3, 0.5, 1.0, 1.0, 1.0, 1.0),
    label_smoothing=(0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1),
)
IN1K_COMMON = {"batch_size": 1024, "min_lr": 1e-6, "erasing": 0.25, "randaugment": RANDAUGMENT, "ema": 0.9999}

# Table 12: labels of ImageNet-22K on FCMAE weights (which come from ImageNet-1K).
LARGER_SIZES = ("nano", "tiny", "base", "large", "huge")
IN22K = columns(
    LARGER_SIZES,
    layer_decay=(0.9, 0.9, 0.8, 0.8, 0.8),
    layer_decay_type=("single", "single", "group", "group", "single"),
    drop_path_rate=(0.0, 0.0, 0.1, 0.1, 0.3),
)
IN22K_COMMON = {
    **{"batch_size": 4096, "epochs": 90, "warmup_epochs": 5.0, "base_lr": 2.5e-4, "min_lr": 1e-6, "erasing": 0.25},
    **{"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "randaugment": RANDAUGMENT},
}

# Table 13: ImageNet-1K after 22K. The table has no picture size; 224, 384 and, for Huge, 512 were published.
IN22K_TO_1K = columns(
    LARGER_SIZES,
    epochs=(90, 90, 30, 30, 30),
    layer_decay=(0.9, 0.9, 0.8, 0.8, 0.85),
    layer_decay_type=("single", "single", "group", "group", "single"),
    drop_path_rate=(0.1, 0.1, 0.2, 0.3, 0.5),
    ema=(0.9999, 0.9999, 0.9999, 0.9999, None),
)
IN22K_TO_1K_COMMON = {
    **{"batch_size": 512, "base_lr": 2.5e-5, "min_lr": 1e-6, "weight_decay": 1e-8, "image_size": (384, 384)},
    **{"label_smoothing": 0.1, "erasing": 0.25, "randaugment": RANDAUGMENT, "crop_fraction": None},
}

# 32x32 pictures on a CPU, Atto. A stem of 1 makes 16 patches of 8, a stem of 2 only 4 patches of 16, one of them
# visible, which teaches nothing; from scratch a stem of 2 is as good and three times as fast. The rate is far above
# the paper's: with few updates that is what works.
CIFAR = {"size": "atto", "image_size": (32, 32), "crop": "padded"}
SMALL_RECIPES = {
    "pretrain_cifar": Pretrain(
        **CIFAR, stem_patch_size=1, batch_size=64, epochs=5, warmup_epochs=0.3, base_lr=6e-3, decoder_dim=256
    ),
    "finetune_cifar": Finetune(
        **{**CIFAR, "stem_patch_size": 1, "batch_size": 32, "epochs": 8, "warmup_epochs": 0.8},
        **{"base_lr": 1.6e-2, "layer_decay": 0.85, "head_init_scale": 1.0},
    ),
    "scratch_cifar": Finetune(
        **{**CIFAR, "stem_patch_size": 2, "batch_size": 128, "epochs": 8, "warmup_epochs": 0.8},
        **{"base_lr": 2e-3, "head_init_scale": 1.0},
    ),
}

# The drawn set `shapes`, 64x64: a quarter of Atto, 16 patches. Twice the rate from scratch stays at chance.
SHAPES = {
    **{"size": "atto", "depths": (1, 1, 3, 1), "dims": (24, 48, 96, 192), "stem_patch_size": 2},
    **{"image_size": (64, 64), "crop": "padded"},
}
SHAPES_FINETUNE = {"batch_size": 16, "epochs": 20, "steps": 400, "warmup_epochs": 2.0, "head_init_scale": 1.0}
SMALL_RECIPES |= {
    "pretrain_shapes": Pretrain(
        **{**SHAPES, "batch_size": 64, "epochs": 40, "steps": 2000, "warmup_epochs": 2.0},
        **{"base_lr": 8e-3, "decoder_dim": 128},
    ),
    "finetune_shapes": Finetune(**SHAPES, **SHAPES_FINETUNE, base_lr=3.2e-2, layer_decay=0.85, evaluate_every=0),
    "scratch_shapes": Finetune(**SHAPES, **SHAPES_FINETUNE, base_lr=1.6e-2, evaluate_every=0),
}

# Some hundred to some thousand photos: the average reaches over a tenth of the run, the best weights by the held-out
# pictures are saved.
PHOTOS = {"size": "atto", "batch_size": 32}
PHOTOS_FINETUNE = {
    **{**PHOTOS, "base_lr": 8e-3, "weight_decay": 0.05, "crop_scale": (0.35, 1.0), "head_init_scale": 1.0},
    **{"ema": 0.9999, "choose": "best"},
}
SMALL_RECIPES |= {
    "pretrain_photos": Pretrain(**PHOTOS, epochs=100, warmup_epochs=5.0, base_lr=4e-3, decoder_dim=256),
    "finetune_photos": Finetune(**PHOTOS_FINETUNE, epochs=30, warmup_epochs=3.0, layer_decay=0.85, drop_path_rate=0.1),
    "scratch_photos": Finetune(**PHOTOS_FINETUNE, epochs=60, warmup_epochs=6.0),
}

RECIPES = {
    **{f"fcmae_{size}": recipe for size, recipe in FCMAE.items()},
    **{f"finetune_{size}": Finetune(size=size, **IN1K_COMMON, **column) for size, column in IN1K.items()},
    **{f"finetune_22k_{size}": Finetune(size=size, **IN22K_COMMON, **column) for size, column in IN22K.items()},
    **{
        f"finetune_22k_1k_{size}": Finetune(size=size, **IN22K_TO_1K_COMMON, **column)
        for size, column in IN22K_TO_1K.items()
    },
    **SMALL_RECIPES,
}

# What to expect: top-1 in percent on ImageNet-1K as published, with all parts of the recipe.
TOP_1 = {
    **{"finetune_atto": 76.7, "finetune_femto": 78.5, "finetune_pico": 80.3, "finetune_nano": 81.9},
    **{"finetune_tiny": 83.0, "finetune_base": 84.9, "finetune_large": 85.8, "finetune_huge": 86.3},
    **{"finetune_22k_1k_nano": 83.4, "finetune_22k_1k_tiny": 85.1, "finetune_22k_1k_base": 87.7},
    **{"finetune_22k_1k_large": 88.2, "finetune_22k_1k_huge": 88.7},
}


@dataclasses.dataclass(frozen=True)
class About:
    """Where a recipe comes from, on what it was run, and what came out."""

    source: str
    hardware: str
    expected: str


IN1K_HARDWARE = "32 GPUs with 32 images each, or 8 with --set accumulation=4"
HERE = "two cores of a CPU"
ABOUT = {  # a family of recipes by the front of its names: the first one that fits
    "fcmae_": About(
        "ConvNeXt V2, table 8; TRAINING.md",
        "64 GPUs with 64 images each, or 8 with --set accumulation=8",
        "the loss; its worth shows in fine-tuning",
    ),
    "finetune_22k_1k_": About("ConvNeXt V2, table 13", "32 GPUs with 16 images each", "{top_1}"),
    "finetune_22k_": About(
        "ConvNeXt V2, table 12", "64 GPUs with 64 images each", "top-1 on ImageNet-22K: not published"
    ),
    "pretrain_photos": About("own runs, docs/results.md", HERE, "the loss; its worth shows in fine-tuning"),
    "finetune_photos": About("own runs, docs/results.md", HERE, "by the photos: docs/results.md has an example"),
    "scratch_photos": About("own runs, docs/results.md", HERE, "by the photos: docs/results.md has an example"),
    "pretrain_cifar": About("own runs, docs/results.md", HERE, "the loss; its worth shows in fine-tuning"),
    "finetune_cifar": About("own runs, docs/results.md", HERE, "top-1 on CIFAR-10: docs/results.md"),
    "scratch_cifar": About("own runs, docs/results.md", HERE, "top-1 on CIFAR-10: docs/results.md"),
    "pretrain_shapes": About("own runs, docs/results.md", HERE, "the loss: docs/results.md"),
    "finetune_shapes": About("own runs, docs/results.md", HERE, "top-1 on the drawn set: docs/results.md"),
    "scratch_shapes": About("own runs, docs/results.md", HERE, "top-1 on the drawn set: docs/results.md"),
    "finetune_": About("ConvNeXt V2, tables 9 to 11", IN1K_HARDWARE, "{top_1}"),
}


def about(name):
    """The About of a recipe."""
    found = next(about for front, about in ABOUT.items() if name.startswith(front))
    published = f"top-1 {TOP_1[name]}% on ImageNet-1K with the full recipe, as published" if name in TOP_1 else ""
    return dataclasses.replace(found, expected=found.expected.format(top_1=published))


def following(config):
    """(name of the fine-tuning recipe that fits a pre-training, settings that it needs).

    The recipe is the counterpart of the pre-training recipe that has most values in common with the config; of several,
    the last one, which is for smaller sets.
    """

    def other(recipe, names):
        return {name: getattr(config, name) for name in names if getattr(recipe, name) != getattr(config, name)}

    fields = [field.name for field in dataclasses.fields(Pretrain)]
    names = [name for name, recipe in RECIPES.items() if isinstance(recipe, Pretrain)]
    nearest_one = min(reversed(names), key=lambda name: len(other(RECIPES[name], fields)))
    name = f"finetune_{nearest_one.partition('_')[2]}"
    return name, other(RECIPES[name], ("size", "depths", "dims", "stem_patch_size", "image_size", "channels"))


def find_recipe(name, kind):
    """The recipe of this name, which must be of this class of config."""
    names = [known for known, recipe in RECIPES.items() if type(recipe) is kind]
    if name not in names:
        rule = f"--recipe must name a {kind.__name__} recipe"
        raise ValueError(f"{rule}. Received: {name!r}. {nearest(name or '', names)}")
    return RECIPES[name]
