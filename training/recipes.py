"""The recipes: the paper's tables as data, and settings that work on a CPU with small pictures.

One column of a table is one recipe. Sources: ConvNeXt V2 (arXiv 2301.00808), tables 8 to 13, and the released
TRAINING.md. Where they disagree, the value that was run is taken, and a note, which --explain prints, says so.
"""

import dataclasses

from keras_convnextv2.sizes import SIZES
from training.configs import Detect, Finetune, Pretrain, Segment
from training.fields import nearest

RANDAUGMENT = "rand-m9-mstd0.5-inc1"


def columns(names, **rows):
    """{column name: {row name: value}}"""
    return {name: {row: values[i] for row, values in rows.items()} for i, name in enumerate(names)}


# Table 8. 1600 epochs made the published weights, 800 the paper's ablations.
ALL_SIZES = tuple(SIZES)
FCMAE = {size: Pretrain(size=size) for size in ALL_SIZES}
FCMAE_800 = {size: Pretrain(size=size, epochs=800) for size in ALL_SIZES}

# Tables 9 to 11, from FCMAE weights on ImageNet-1K at 224.
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

# Table 12: labels of ImageNet-22K on FCMAE weights (which come from ImageNet-1K). Not in the table: V1's classes, and
# how much is held out, which is little, and looked at once.
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
    **{"classes": 21_841, "validation_split": 0.004, "evaluate_every": 0},
}

# Table 13: ImageNet-1K after 22K; one table for all picture sizes.
IN22K_TO_1K = columns(
    LARGER_SIZES,
    epochs=(90, 90, 30, 30, 30),
    layer_decay=(0.9, 0.9, 0.8, 0.8, 0.85),
    layer_decay_type=("single", "single", "group", "group", "single"),
    drop_path_rate=(0.1, 0.1, 0.2, 0.3, 0.5),
    ema=(0.9999, 0.9999, 0.9999, 0.9999, None),
)
IN22K_TO_1K_COMMON = {
    **{"batch_size": 512, "base_lr": 2.5e-5, "min_lr": 1e-6, "weight_decay": 1e-8},
    **{"label_smoothing": 0.1, "erasing": 0.25, "randaugment": RANDAUGMENT},
}
AT_384 = {"image_size": (384, 384), "crop_fraction": None}
AT_512 = {"image_size": (512, 512), "crop_fraction": None}


def after_22k(size, **picture):
    return Finetune(size=size, **IN22K_TO_1K_COMMON, **IN22K_TO_1K[size], **picture)


# The rows called "Supervised" (table 14) have no recipe in the paper. V1's is the only one that is documented, for Tiny
# and above; below Tiny the drop path is that of table 9.
SCRATCH = columns(
    ("atto", "femto", "pico", "nano", "tiny", "base", "large"),
    drop_path_rate=(0.1, 0.0, 0.0, 0.1, 0.1, 0.5, 0.5),
)
SCRATCH_COMMON = {
    **{"batch_size": 4096, "epochs": 300, "warmup_epochs": 20.0, "base_lr": 2.5e-4, "min_lr": 1e-6, "erasing": 0.25},
    **{"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "randaugment": RANDAUGMENT, "ema": 0.9999},
    "head_init_scale": 1.0,
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
SHAPES_NETWORK = {"size": "atto", "depths": (1, 1, 3, 1), "dims": (24, 48, 96, 192), "stem_patch_size": 2}
SHAPES = {**SHAPES_NETWORK, "image_size": (64, 64), "crop": "padded"}
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

# CUB-200-2011, ours: 30 pictures a class, so ImageNet's weights, a mild crop and the average of the weights. The
# accuracy is that of the last weights, since the test pictures must not choose.
SMALL_RECIPES |= {
    "finetune_cub": Finetune(
        **{"size": "tiny", "classes": 200, "batch_size": 64, "epochs": 60, "warmup_epochs": 5.0, "base_lr": 2e-3},
        **{"min_lr": 1e-6, "layer_decay": 0.8, "drop_path_rate": 0.2, "crop_scale": (0.35, 1.0), "ema": 0.9999},
        **{"head_init_scale": 1.0, "evaluate_every": 5},
    ),
}

# UPerNet on ADE20K. The paper swept rate, decay and drop path and does not say what it took: V1's values by
# mmsegmentation. A size of pictures in a name is that of weights that have seen ImageNet-22K.
ADE20K = {
    **{"warmup_epochs": 127 * 1500 / 160_000, "base_lr": 1e-4 * 256 / 16, "layer_decay": 0.9, "drop_path_rate": 0.4},
    "evaluate_every": 12,
}
AT_640 = {"image_size": (640, 640), "resize": (2560, 640)}
SEGMENT = {size: Segment(size=size, **ADE20K) for size in ("base", "large", "huge")}
SEGMENT["tiny"] = Segment(size="tiny", layer_decay_layers=6, **ADE20K)
SEGMENT_640 = {size: Segment(size=size, **AT_640, **ADE20K) for size in ("base", "large", "huge")}

# Mask R-CNN on COCO. The paper swept layer decay and drop path and does not say what it took: those of mmdetection's
# project of Base. 1,000 steps of warm-up are 0.27 of the epochs of 117,266 photos with objects.
COCO = {
    **{"warmup_epochs": 0.27, "base_lr": 1e-4 * 256 / 32, "layer_decay": 0.95, "drop_path_rate": 0.4, "min_size": 32},
    **{"soft_nms": True, "fall_epochs": (27, 33), "evaluate_every": 3},
}
DETECT = {size: Detect(size=size, **COCO) for size in ("base", "large", "huge")}
DETECT["tiny"] = Detect(size="tiny", layer_decay_layers=6, **COCO)

# Faster R-CNN on radar pictures (SAR): GrokSAR's configs of Base, the mission's two rows, and SARDet-100K's own.
SAR = {
    **{"size": "base", "masks": False, "drop_path_rate": 0.4, "epochs": 12, "fall_epochs": (8, 11), "resize": ()},
    **{"scale": (1.0, 1.0), "evaluation_resize": ()},
}
GROKSAR = {**SAR, "optimizer": "dadapt_adam", "base_lr": 1.0, "image_size": (512, 512)}
AIRCRAFT = ("Boeing737", "A220", "other", "A330", "Boeing787", "ARJ21", "A320/321")
SARDET = ("ship", "aircraft", "car", "tank", "bridge", "harbor")
WHOLE_SQUARE = {"keep_ratio": False, "min_size": 16, "batch_size": 16, "classes": SARDET}
DETECT_SAR = {
    "detect_aircraft": Detect(
        **{**GROKSAR, "classes": AIRCRAFT, "batch_size": 32, "warmup_epochs": 0.5, "tile": 512, "gap": 200},
        **{"merge": 0.1, "metric": "ap07", "plus_one": True, "mean": (23.736361,) * 3, "std": (24.685866,) * 3},
    ),
    "detect_sardet": Detect(
        **{**GROKSAR, **WHOLE_SQUARE, "warmup_epochs": 500 * 16 / 94_493, "mean": (36.5046,) * 3, "std": (52.1216,) * 3}
    ),
    "detect_sardet_800": Detect(
        **{**SAR, **WHOLE_SQUARE, "warmup_epochs": 500 * 16 / 94_493, "base_lr": 1e-4 * 256 / 16},
        image_size=(800, 800),
    ),
}

# Ours: narrow heads and few samples, for some hundred photos, and for the drawn set.
NARROW = {"fpn_dim": 64, "rpn_dim": 64, "box_dim": 128, "mask_dim": 64, "mask_convs": 2}
SMALL_RECIPES |= {
    "detect_photos": Detect(
        **{**NARROW, "size": "atto", "proposals": 300, "rpn_samples": 128, "roi_samples": 128, "batch_size": 8},
        **{"image_size": (320, 320), "resize": (640, 480), "evaluation_resize": (640, 480), "scale": (0.75, 1.5)},
        **{
            "distort": True,
            "epochs": 60,
            "warmup_epochs": 3.0,
            "base_lr": 1.6e-2,
            "drop_path_rate": 0.1,
            "ema": 0.9999,
        },
        **{"choose": "best", "evaluate_every": 5},
    ),
    "detect_shapes": Detect(
        **{**SHAPES_NETWORK, "fpn_dim": 32, "rpn_dim": 32, "box_dim": 64, "mask_dim": 32, "mask_convs": 1},
        **{"proposals": 50, "rpn_samples": 32, "roi_samples": 32, "max_detections": 10, "most_objects": 4},
        **{"mask_size": 28, "image_size": (64, 64), "resize": (), "scale": (1.0, 1.0), "evaluation_resize": ()},
        **{"batch_size": 16, "epochs": 40, "warmup_epochs": 4.0, "base_lr": 1.6e-2, "evaluate_every": 10},
    ),
}

# Ours: a narrow head, for some hundred photos, and for the drawn set.
SMALL_RECIPES |= {
    "segment_photos": Segment(
        **{"size": "atto", "head_channels": 128, "auxiliary_channels": 64, "image_size": (256, 256), "resize": ()},
        **{"batch_size": 8, "epochs": 60, "steps": 0, "warmup_epochs": 3.0, "base_lr": 3.2e-2, "layer_decay": 0.9},
        **{"drop_path_rate": 0.1, "choose": "best", "evaluate_every": 5},
    ),
    "segment_shapes": Segment(
        **{**SHAPES_NETWORK, "image_size": (64, 64), "resize": (), "scale": (1.0, 1.0), "largest_share": 1.0},
        **{"head_channels": 32, "auxiliary_channels": 16, "batch_size": 16, "epochs": 60, "steps": 0},
        **{"warmup_epochs": 6.0, "base_lr": 1.6e-2, "distort": False, "evaluate_every": 10, "whole": True},
    ),
}

RECIPES = {  # a number in a name stands where one name has several: without it, 1600 epochs or pictures of 384
    **{f"fcmae_{size}": recipe for size, recipe in FCMAE.items()},
    **{f"fcmae_800_{size}": recipe for size, recipe in FCMAE_800.items()},
    **{f"finetune_{size}": Finetune(size=size, **IN1K_COMMON, **column) for size, column in IN1K.items()},
    **{f"finetune_22k_{size}": Finetune(size=size, **IN22K_COMMON, **column) for size, column in IN22K.items()},
    **{f"finetune_22k_1k_224_{size}": after_22k(size) for size in LARGER_SIZES if size != "huge"},
    **{f"finetune_22k_1k_{size}": after_22k(size, **AT_384) for size in LARGER_SIZES},
    "finetune_22k_1k_512_huge": after_22k("huge", **AT_512),
    **{f"scratch_{size}": Finetune(size=size, **SCRATCH_COMMON, **column) for size, column in SCRATCH.items()},
    **{f"segment_{size}": recipe for size, recipe in SEGMENT.items()},
    **{f"segment_640_{size}": recipe for size, recipe in SEGMENT_640.items()},
    **{f"detect_{size}": recipe for size, recipe in DETECT.items()},
    **DETECT_SAR,
    **SMALL_RECIPES,
}

# What to expect, as published with all parts of the recipe: top-1 in percent on ImageNet-1K. For a pre-training, after
# finetune_SIZE (table 4); else tables 14 and 15, and README.
TOP_1 = {
    **{"fcmae_800_base": 84.6, "fcmae_800_large": 85.6, "fcmae_800_huge": 85.8},
    **{"fcmae_atto": 76.7, "fcmae_femto": 78.5, "fcmae_pico": 80.3, "fcmae_nano": 81.9},
    **{"fcmae_tiny": 83.0, "fcmae_base": 84.9, "fcmae_large": 85.8, "fcmae_huge": 86.3},
    **{"finetune_atto": 76.7, "finetune_femto": 78.5, "finetune_pico": 80.3, "finetune_nano": 81.9},
    **{"finetune_tiny": 83.0, "finetune_base": 84.9, "finetune_large": 85.8, "finetune_huge": 86.3},
    **{"finetune_22k_1k_224_nano": 82.1, "finetune_22k_1k_224_tiny": 83.9},
    **{"finetune_22k_1k_224_base": 86.8, "finetune_22k_1k_224_large": 87.3},
    **{"finetune_22k_1k_nano": 83.4, "finetune_22k_1k_tiny": 85.1, "finetune_22k_1k_base": 87.7},
    **{"finetune_22k_1k_large": 88.2, "finetune_22k_1k_huge": 88.7, "finetune_22k_1k_512_huge": 88.9},
    **{"scratch_atto": 76.2, "scratch_femto": 78.0, "scratch_pico": 79.7, "scratch_nano": 81.2},
    **{"scratch_tiny": 82.5, "scratch_base": 84.3, "scratch_large": 84.5},
}


# mIoU in percent on ADE20K, multi-scale, of weights from FCMAE (table 7).
MIOU = {"segment_base": 52.1, "segment_large": 53.7, "segment_huge": 55.0, "segment_640_huge": 57.0}
ON_ADE20K = "mIoU {miou}% on ADE20K at several scales, as published"

# Box and mask AP in percent on COCO val2017, of weights from FCMAE (table 6).
COCO_AP = {"detect_base": (52.9, 46.6), "detect_large": (54.4, 47.7), "detect_huge": (55.7, 48.9)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """Where a recipe comes from, on what it was run, and what came out.

    Args:
        expected: with {top_1} and {size} in it.
        data: what --data should name.
        init: what it starts from, for --set init=; with {size} in it.
        images, classes: how many the training set has; 0: that is up to the data.
        notes: what is to be known about its values, misprints above all.
    """

    source: str
    hardware: str
    expected: str
    data: str
    init: str = ""
    images: int = 0
    classes: int = 0
    notes: tuple[str, ...] = ()


IMAGENET = {
    "data": "tfds:imagenet2012, or folder:PATH with train/ and val/, each of 1,000 folders of pictures",
    **{"images": 1_281_167, "classes": 1000},
}
ADE20K_ABOUT = {
    **{"data": "folder:ADEChallengeData2016, as it is published", "images": 20_210, "classes": 150},
    **{"source": "ConvNeXt V2, appendix A.4; mmsegmentation's configs of V1", "hardware": "8 GPUs with 2 images each"},
    "expected": "{miou}",
}
COCO_ABOUT = {
    **{"data": "folder:COCO, as it is published", "images": 117_266, "classes": 80},
    **{"source": "ConvNeXt V2, appendix A.3; mmdetection's project of Base", "hardware": "8 GPUs with 4 images each"},
    **{"expected": "box AP and mask AP {coco} on COCO val2017, as published", "init": "convnextv2_{size}.fcmae"},
}
COCO_NOTES = (
    "the paper sweeps the layer decay over 0.9, 0.95 and the drop path over 0.2 to 0.5 and does not say what it took: "
    "these are mmdetection's values for Base",
    "the reference climbs from a thousandth of the rate, here it is from 0",
)
GROKSAR_NOTES = (
    "GrokSAR climbs from a third of the rate over 500 steps, here it is from 0",
    "others report lower numbers from tiles of their own (GrokSAR#35)",
)
SWEPT = (
    "the paper sweeps the rate over 1e-4, 2e-4, 3e-4, the layer decay over 0.8, 0.9 and the drop path over 0.1 to 0.4 "
    "and does not say what it took: these are V1's values in mmsegmentation"
)
IMAGENET_22K = {
    "data": "folder:PATH of 21,841 folders of pictures; there is no public set tfds:",
    **{"images": 14_197_122, "classes": 21_841},
}
PUBLISHED = "top-1 {top_1}% on ImageNet-1K with the full recipe, as published"
PRETRAINED = "top-1 {top_1}% on ImageNet-1K after finetune_{size}, as published; its loss is not published"
FCMAE_NOTES = (
    "flips are in the released code, which is complete; the paper has random resized crops alone",
    "of 49 patches 19 stay, so 61.2% are hidden: the int() of the released code",
    "GRN and the mask token do not decay, as the authors advise; the released script decays them: --set decay_grn=true",
    "initial weights have a deviation of 0.02; the script draws most of them anew with 1, which looks like a slip",
)
ERASING = "erasing is not in the tables: 0.25 in every command of TRAINING.md, and the script's default"
HALF = (
    "the released commands train in mixed float16; here it is float32, or --set dtype=mixed_float16 or mixed_bfloat16"
)
LADDER = "the type of the layer decay is not in the table: group for Base and Large (appendix A.2)"
UNPUBLISHED = "not published for this size and length, neither loss nor accuracy after fine-tuning"
IN1K_HARDWARE = "32 GPUs with 32 images each, or 8 with --set accumulation=4"
FCMAE_HARDWARE = "64 GPUs with 64 images each, or 8 with --set accumulation=8; the paper's own runs were on TPUs"
OURS = {"source": "own runs, docs/results.md", "hardware": "two cores of a CPU"}
PHOTOS_ABOUT = {
    **{**OURS, "data": "folder:PATH of one folder a class"},
    "expected": "for some hundred to some thousand photos of your own: docs/results.md has an example",
}
CIFAR_ABOUT = {**OURS, "data": "tfds:cifar10", "images": 50_000, "classes": 10}
SHAPES_ABOUT = {**OURS, "data": "shapes"}
ON_CIFAR, ON_SHAPES = "top-1 on CIFAR-10: docs/results.md", "top-1 on the drawn set: docs/results.md"
ABOUT = {  # a family of recipes by the front of its names: the first one that fits
    "fcmae_": About(
        **{"source": "ConvNeXt V2, table 8; TRAINING.md", "hardware": FCMAE_HARDWARE, "expected": PRETRAINED},
        **IMAGENET,
        notes=FCMAE_NOTES,
    ),
    "finetune_22k_1k_": About(
        **{"source": "ConvNeXt V2, table 13", "hardware": "32 GPUs with 16 images each", "expected": PUBLISHED},
        **{"init": "runs/finetune_22k_{size}", **IMAGENET},
        notes=(
            "the size of the pictures is not in the table: that of the published weights",
            "weights after ImageNet-22K alone were never published: the run before must be one's own",
            *(LADDER, ERASING),
        ),
    ),
    "finetune_22k_": About(
        **{"source": "ConvNeXt V2, table 12", "hardware": "64 GPUs with 64 images each", **IMAGENET_22K},
        **{"expected": "top-1 on ImageNet-22K: not published", "init": "convnextv2_{size}.fcmae"},
        notes=(
            "the size of the pictures is not in the table, section 5 speaks of 384: --set image_size=384,384",
            "V1 had 21,841 classes, V2 does not say; for another folder --set classes=0",
            *(LADDER, ERASING),
        ),
    ),
    "pretrain_photos": About(**{**PHOTOS_ABOUT, "data": "folder:PATH of pictures"}),
    "finetune_photos": About(**PHOTOS_ABOUT, init="imagenet"),
    "scratch_photos": About(**PHOTOS_ABOUT),
    "pretrain_cifar": About(**CIFAR_ABOUT, expected="the loss; its worth shows in fine-tuning"),
    "finetune_cifar": About(**CIFAR_ABOUT, expected=ON_CIFAR, init="runs/pretrain_cifar"),
    "scratch_cifar": About(**CIFAR_ABOUT, expected=ON_CIFAR),
    "pretrain_shapes": About(**SHAPES_ABOUT, images=4000, expected="the loss: docs/results.md"),
    "finetune_shapes": About(
        **{**SHAPES_ABOUT, "images": 300, "classes": 10, "expected": ON_SHAPES, "init": "runs/pretrain_shapes"}
    ),
    "scratch_shapes": About(**SHAPES_ABOUT, images=300, classes=10, expected=ON_SHAPES),
    "finetune_cub": About(
        **{"source": "ours, by sense: not run yet", "hardware": "one GPU", "init": "imagenet"},
        **{"expected": "not known", "data": "tfds:caltech_birds2011", "images": 5_994, "classes": 200},
        notes=("the weights init=imagenet are for non-commercial use (CC-BY-NC 4.0)",),
    ),
    "segment_photos": About(
        **{**OURS, "data": "folder:PATH of images/ and labels/", "init": "imagenet"},
        expected="for some hundred photos of your own: docs/results.md has an example",
    ),
    "segment_shapes": About(**SHAPES_ABOUT, images=300, classes=11, expected="mIoU on the drawn set: docs/results.md"),
    "detect_photos": About(
        **{**OURS, "data": "folder:PATH in COCO's or Pascal VOC's layout", "init": "imagenet"},
        expected="for some hundred photos of your own: docs/results.md has examples",
    ),
    "detect_shapes": About(**SHAPES_ABOUT, images=300, classes=10, expected="box and mask AP: docs/results.md"),
    "detect_aircraft": About(
        **{"source": "GrokSAR's config of Base", "hardware": "not stated", "classes": len(AIRCRAFT)},
        **{"data": "folder:SAR-AIRcraft-1.0, as it is published", "init": "convnextv2_{size}.fcmae"},
        expected="AP'07 68.04 on the test scenes by tables of others",
        notes=(*GROKSAR_NOTES, "500 steps of warm-up are half an epoch of about 1,000 steps of tiles"),
    ),
    "detect_sardet_800": About(
        **{"source": "SARDet-100K, its Faster R-CNN", "hardware": "8 GPUs with 2 images each", "classes": len(SARDET)},
        **{"data": "folder:SARDet_100K, as it is published", "images": 94_493},
        **{"init": "convnextv2_{size}.fcmae_ft_in1k", "expected": "V1 of this size has box AP 55.1 on test"},
        notes=("the drop path is GrokSAR's for V2; SARDet-100K has 0.5 for V1",),
    ),
    "detect_sardet": About(
        **{"source": "GrokSAR's config of Base", "hardware": "not stated", "classes": len(SARDET)},
        **{"data": "folder:SARDet_100K, as it is published", "images": 94_493, "init": "convnextv2_{size}.fcmae"},
        expected="box AP 53.91 on val by tables of others",
        notes=(*GROKSAR_NOTES, "the number is on val: the program evaluates on test where there is one"),
    ),
    "detect_": About(**COCO_ABOUT, notes=COCO_NOTES),
    "segment_640_": About(
        **{**ADE20K_ABOUT, "init": "runs/finetune_22k_{size}"},
        notes=(SWEPT, "weights after ImageNet-22K alone were never published: the run before must be one's own"),
    ),
    "segment_": About(**ADE20K_ABOUT, init="convnextv2_{size}.fcmae_ft_in1k", notes=(SWEPT,)),
    "finetune_": About(
        **{"source": "ConvNeXt V2, tables 9 to 11", "hardware": IN1K_HARDWARE, "expected": PUBLISHED, **IMAGENET},
        init="convnextv2_{size}.fcmae",
        notes=(ERASING, HALF),
    ),
    "scratch_": About(
        **{"source": "ConvNeXt V1, its recipe; ConvNeXt V2, table 14", "expected": PUBLISHED, **IMAGENET},
        hardware="not published; 32 GPUs with 128 images each would do",
        notes=(
            "the paper has no recipe for its rows called Supervised: V1's, without LayerScale",
            "head_init_scale is 1 from scratch; the script's default of 0.001 gave 80.6 with Base (ConvNeXt-V2#43)",
        ),
    ),
}

NOTES = {  # of single recipes
    "finetune_base": ("base_lr is 6.25e-4 in TRAINING.md and by mmpretrain; table 11 misprints it as 6.25e-3",),
    "finetune_large": ("base_lr is that of Base, 6.25e-4; table 11 has both in one column, as 6.25e-3",),
    "finetune_huge": (
        "base_lr is as printed, in the row of table 11 that is ten times too large for Base: undecided; if it does not "
        "train, --set base_lr=1.25e-4",
    ),
    "finetune_femto": ("weight_decay is as printed, a sixth of that of the other small sizes; nothing confirms it",),
    "finetune_atto": ("76.7 is the preprint's and README's top-1; the CVPR abstract has 76.8, timm measures 76.644",),
    **{
        f"scratch_{size}": ("V1's recipe for this size is not known: that of Tiny, with the drop path of table 9",)
        for size in ("atto", "femto", "pico", "nano")
    },
}


def about(name):
    """The About of a recipe."""
    found = next(about for front, about in ABOUT.items() if name.startswith(front))
    size = RECIPES[name].size
    published = found.expected.format(top_1=TOP_1[name], size=size) if name in TOP_1 else found.expected
    if name in MIOU:
        published = ON_ADE20K.format(miou=MIOU[name])
    if name in COCO_AP:
        published = found.expected.format(coco=" and ".join(f"{ap}%" for ap in COCO_AP[name]))
    open_ = any(word in published for word in ("{top_1}", "{miou}", "{coco}"))
    expected = UNPUBLISHED if open_ else published
    notes = found.notes + NOTES.get(name, ())
    return dataclasses.replace(found, expected=expected, init=found.init.format(size=size), notes=notes)


# What a program finds on a machine, not on the pictures: the next program finds the same.
OF_THE_MACHINE = ("devices", "strategy", "dtype", "remat", "workers", "worker_processes", "jit")


def following(config, images=None, parts=1):
    """(name of the fine-tuning recipe that fits a pre-training, settings that it needs).

    The recipe is the counterpart of the pre-training recipe that has most values in common with the config; of several,
    the last one, which is for smaller sets. Its batch is no larger than one that was lowered for the pre-training.

    Args:
        images: how many there are to fine-tune on, which a batch cannot exceed; None: enough.
        parts: over how many devices a batch is shared out.
    """

    def other(recipe, names):
        return {name: getattr(config, name) for name in names if getattr(recipe, name) != getattr(config, name)}

    fields = [field.name for field in dataclasses.fields(Pretrain)]
    names = [name for name, recipe in RECIPES.items() if isinstance(recipe, Pretrain)]
    nearest_one = min(reversed(names), key=lambda name: len(other(RECIPES[name], fields)))
    name = f"finetune_{nearest_one.rpartition('_')[2]}"
    network = ("size", "depths", "dims", "stem_patch_size", "image_size", "channels")
    settings = other(RECIPES[name], (*network, *OF_THE_MACHINE))
    recipe, lowered = RECIPES[name], config.batch_size < RECIPES[nearest_one].batch_size
    most = min(images or recipe.batch_size, config.batch_size if lowered else recipe.batch_size)
    multiple = parts * recipe.accumulation * (2 if recipe.mixes else 1)  # images are mixed in pairs
    if (batch := max(multiple, most - most % multiple)) != recipe.batch_size:
        settings["batch_size"] = batch
    return name, settings


def find_recipe(name, kind):
    """The recipe of this name, which must be of this class of config."""
    names = [known for known, recipe in RECIPES.items() if type(recipe) is kind]
    if name not in names:
        rule = f"--recipe must name a {kind.__name__} recipe"
        raise ValueError(f"{rule}. Received: {name!r}. {nearest(name or '', names)}")
    return RECIPES[name]
