"""Run by hand: timm's RandAugment, mixup, cutmix and erasing. The tests only read what it wrote.

    python -m tests.golden.make_augmentation

`operations/`: small pictures through every operation at given levels and signs. `draws/` and `erased/`: statistics over
DRAWS random draws. `mixed/`: a batch, its soft targets and the loss. RandAugment is the one of the pipeline that
`create_transform` makes as the reference does, with a bicubic crop.
"""

import pathlib
import random
from unittest import mock

import numpy as np
import torch
from PIL import Image, __version__

from keras_convnextv2.convert.libraries import import_torchvision

import_torchvision()

import timm  # noqa: E402
from timm.data import auto_augment, create_transform  # noqa: E402
from timm.data.mixup import Mixup, cutmix_bbox_and_lam  # noqa: E402
from timm.data.random_erasing import RandomErasing  # noqa: E402
from timm.loss import SoftTargetCrossEntropy  # noqa: E402

DRAWS = 10_000
LEVELS = (0.0, 2.6, 9.0, 10.0)
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
SIGNED = (*MOVES, "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
POLICY = "rand-m9-mstd0.5-inc1"

# The policy, as training/data/randaugment.py must have it: its filter and the grey it fills with

kinds = {"is_training": True, "auto_augment": POLICY, "interpolation": "bicubic"}
(policy,) = (step for step in create_transform(224, **kinds).transforms if hasattr(step, "ops"))
(resample,) = {operation.kwargs["resample"] for operation in policy.ops}
(fill,) = {operation.kwargs["fillcolor"] for operation in policy.ops}
golden = {"source": f"timm {timm.__version__}, torch {torch.__version__}, Pillow {__version__}, seed 0"}
golden |= {"policy/resample": int(resample), "policy/fill": fill}

# Operations: key is operations/NAME/LEVEL/SIGN

rng = np.random.default_rng(0)
rows, columns = np.mgrid[:10, :14]
picture = 40 + 9 * rows[..., None] + np.array([3, -2, 7]) * columns[..., None] + rng.integers(0, 50, (10, 14, 3))
picture = picture.clip(3, 240).astype("uint8")  # neither black nor white, so that autocontrast has work to do
golden["picture"] = picture
for name in dict.fromkeys(auto_augment._RAND_TRANSFORMS + auto_augment._RAND_INCREASING_TRANSFORMS):
    for level in LEVELS if auto_augment.LEVEL_TO_ARG[name] else LEVELS[:1]:
        for sign in (1, -1) if name in SIGNED else (1,):
            hparams = {"img_mean": fill, "interpolation": resample}
            operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
            with mock.patch.object(random, "random", lambda sign=sign: 0.2 if sign > 0 else 0.8):
                try:
                    done = operation(Image.fromarray(picture))
                except ValueError:  # no bits: Pillow 13 refuses
                    continue
            golden[f"operations/{name}/{level}/{sign}"] = np.asarray(done)

# What is drawn for a picture: (number of the operation, its value)

random.seed(0)
np.random.seed(0)
drawn = []
for number, operation in enumerate(policy.ops):

    def record(image, value=0.0, number=number, **_):
        drawn.append((number, value))
        return image

    operation.aug_fn = record
counts = []
for _ in range(DRAWS):
    before = len(drawn)
    policy(Image.new("RGB", (4, 4)))
    counts.append(len(drawn) - before)
number, value = np.array(drawn, "float64").T
of_each = [value[number == k] for k in range(len(policy.ops))]
golden |= {
    "draws/per_picture": np.bincount(counts),
    "draws/per_operation": np.bincount(number.astype(int)),
    "draws/mean": [values.mean() for values in of_each],
    "draws/deviation": [values.std() for values in of_each],
    "draws/mean_size": [np.abs(values).mean() for values in of_each],
    "draws/size_deviation": [np.abs(values).std() for values in of_each],
}

# Mixup and cutmix of a batch, rearranged so that partners are neighbours

pixels, labels = rng.integers(0, 256, (6, 8, 12, 3), "uint8"), np.array([4, 0, 1, 1, 2, 3])
logits = torch.from_numpy(rng.normal(size=(6, 5)).astype("float32"))
neighbours = [0, 5, 1, 4, 2, 3]
golden |= {"mixed/images": pixels[neighbours], "mixed/labels": labels[neighbours], "mixed/logits": logits[neighbours]}
for kind, alphas in {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0)}.items():
    mix = Mixup(*alphas, label_smoothing=0.1, num_classes=5)
    np.random.seed(3)
    share, _ = mix._params_per_batch()
    box = (0, 0, 0, 0)
    if kind == "cutmix":
        (top, bottom, left, right), share = cutmix_bbox_and_lam((6, 3, 8, 12), share)
        box = (top, left, bottom - top, right - left)
    np.random.seed(3)
    images, target = mix(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), torch.from_numpy(labels))
    losses = [SoftTargetCrossEntropy()(logits[k : k + 1], target[k : k + 1]).item() for k in range(6)]
    images = images.permute(0, 2, 3, 1).numpy()[neighbours]
    golden |= {f"mixed/{kind}_share": share, f"mixed/{kind}_box": box, f"mixed/{kind}_images": images}
    golden[f"mixed/{kind}_losses"] = np.array(losses)[neighbours]

np.random.seed(0)
both, size = Mixup(0.3, 1.0), (48, 80)
parameters = [both._params_per_batch() for _ in range(DRAWS)]
boxes = [cutmix_bbox_and_lam((2, 3, *size), share) for share, cuts in parameters if cuts]


def moments(name, values):
    """Mean and deviation of each column."""
    values = np.array(values, "float64")
    return {f"{name}_mean": values.mean(0), f"{name}_deviation": values.std(0), f"{name}_count": len(values)}


golden |= moments("draws/mixup_share", [share for share, cuts in parameters if not cuts])
golden |= moments("draws/cutmix", [(share, y, x, y1 - y, x1 - x) for (y, y1, x, x1), share in boxes])

# Erasing of normalised pictures

random.seed(0)
torch.manual_seed(0)
erase, windows, noise = RandomErasing(0.25, mode="pixel", device="cpu"), [], []
for _ in range(DRAWS):
    done = erase(torch.full((3, *size), 100.0))[:, :, :].numpy()
    places = np.argwhere(done[0] != 100.0)
    if len(places):
        (top, left), (bottom, right) = places.min(0), places.max(0) + 1
        height, width = bottom - top, right - left
        windows.append((height * width, np.log(width / height), top, left, height, width))
        noise.append(done[:, top, left])
golden |= {"size": size, **moments("erased/window", windows), **moments("erased/noise", noise)}

path = pathlib.Path(__file__).with_name("augmentation.npz")
np.savez_compressed(path, **golden)
print(f"{path.name}  {path.stat().st_size / 1024:.0f} KB  {len(golden)} arrays  {golden['source']}")
