"""Compare the published weights, loaded by this package, with published answers. Needs a network; run by hand.

    python tools/check_published.py --presets "*tiny*" --imagenet imagenet/val --out report.json

Each row of `kc.list_presets()` is downloaded and loaded strictly. Fine-tuned networks then see one photo: their first
five logits must be those that Hugging Face's conversion script asserts. With --imagenet their top-1 accuracy must be
the one that timm measured. Exit code 1 where something deviates or fails.
"""

import argparse
import fnmatch
import gc
import json
import math
import pathlib
import sys
import time

import keras
import numpy as np

import keras_convnextv2 as kc
from keras_convnextv2.preprocessing import imagenet_classes
from keras_convnextv2.sizes import SIZES

PHOTO = "http://images.cocodataset.org/val2017/000000039769.jpg"  # two cats on a sofa, 640 x 480
PICTURES = (".jpeg", ".jpg", ".png")
LOGITS_TOLERANCE = 1e-3  # of transformers' convert_convnextv2_to_pytorch.py, from which the numbers are
WHOLE_SET = 50_000  # pictures of the ImageNet validation set
TOP1_TOLERANCE = 0.1  # percent, on the whole set: 50 pictures that another JPEG decoder or number type may turn
LOGITS = {
    "convnextv2-atto-1k-224": (-0.3930, 0.1747, -0.5246, 0.4177, 0.4295),
    "convnextv2-femto-1k-224": (-0.1727, -0.5341, -0.7818, -0.4745, -0.6566),
    "convnextv2-pico-1k-224": (-0.0333, 0.1563, -0.9137, 0.1054, 0.0381),
    "convnextv2-nano-1k-224": (-0.1744, -0.1555, -0.0713, 0.0950, -0.1431),
    "convnextv2-tiny-1k-224": (0.9996, 0.1966, -0.4386, -0.3472, 0.6661),
    "convnextv2-base-1k-224": (-0.2553, -0.6708, -0.1359, 0.2518, -0.2488),
    "convnextv2-large-1k-224": (-0.0673, -0.5627, -0.3753, -0.2722, 0.0178),
    "convnextv2-huge-1k-224": (-0.6377, -0.7458, -0.2150, 0.1184, -0.0597),
    "convnextv2-nano-22k-224": (1.0799, 0.2322, -0.8860, 1.0219, 0.6231),
    "convnextv2-nano-22k-384": (0.3766, 0.4917, -1.1426, 0.9942, 0.6024),
    "convnextv2-tiny-22k-224": (0.4220, -0.6919, -0.4317, -0.2881, -0.6609),
    "convnextv2-tiny-22k-384": (0.1082, -0.8286, -0.5095, 0.4681, -0.8085),
    "convnextv2-base-22k-224": (-0.2419, -0.6221, 0.2176, -0.0980, -0.7527),
    "convnextv2-base-22k-384": (0.0391, -0.4371, 0.3786, 0.1251, -0.2784),
    "convnextv2-large-22k-224": (-0.0504, 0.5636, -0.1729, -0.6507, -0.3949),
    "convnextv2-large-22k-384": (0.3560, 0.9486, 0.3149, -0.2667, -0.5138),
    "convnextv2-huge-22k-384": (-0.2469, -0.4550, -0.5853, -0.0810, 0.0309),
    "convnextv2-huge-22k-512": (-0.3090, 0.0802, -0.0682, -0.1979, -0.2826),
}


def expected_logits(preset):
    """The published logits of this row's network (timm's and Hugging Face's files hold the same one), or None."""
    names = [row.name for row in kc.list_presets(preset.size) if row.official == preset.official]
    return next((LOGITS[name] for name in names if name in LOGITS), None)


def build(preset):
    """The row's network with its weights; the classifier gives logits."""
    return kc.ConvNeXtV2(
        *SIZES[preset.size],
        include_top=preset.classes > 0,
        classes=preset.classes or 1000,
        classifier_activation=None,
        input_shape=preset.input_shape,
        weights=preset.name,
    )


def labelled_pictures(folder):
    """[(file, class)] of a folder with a subfolder for each class, named by its WordNet id."""
    labels = {wordnet_id: label for label, (wordnet_id, _) in enumerate(imagenet_classes())}
    found = []
    for subfolder in sorted(path for path in pathlib.Path(folder).iterdir() if path.is_dir()):
        if subfolder.name not in labels:
            raise ValueError(f"{str(folder)!r} must hold folders named by WordNet id. Received: {subfolder.name!r}")
        files = sorted(path for path in subfolder.iterdir() if path.suffix.lower() in PICTURES)
        found += [(path, labels[subfolder.name]) for path in files]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no pictures ({', '.join(PICTURES)}) in folders named by WordNet id")
    return found


def top1_of(model, transform, pictures, batch):
    """Accuracy in percent over [(file, class)]."""
    right = 0
    progress = keras.utils.Progbar(len(pictures), stateful_metrics=["top-1"])
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        scores = model.predict_on_batch(np.stack([transform(path) for path, _ in part]))
        right += int(np.sum(np.argmax(scores, axis=-1) == [label for _, label in part]))
        seen = start + len(part)
        progress.update(seen, [("top-1", 100 * right / seen)])
    return 100 * right / len(pictures)


def top1_tolerance(expected, count):
    """Percent; three standard deviations of a sample's accuracy come on top where it is not the whole set."""
    share = expected / 100
    return TOP1_TOLERANCE + (300 * math.sqrt(share * (1 - share) / count) if count < WHOLE_SET else 0.0)


def check(preset, photo, pictures, batch):
    """What one row gives, as a dict for the report: never raises for a download, a file or an answer that is bad."""
    row = {"name": preset.name, "official": preset.official, "result": "loads"}
    started = time.perf_counter()
    try:
        model = build(preset)
    except (OSError, ValueError, ImportError) as error:
        return row | {"result": "failed", "error": str(error)}
    row["seconds_to_load"] = round(time.perf_counter() - started, 1)
    if not preset.classes:
        return row
    transform, agrees = kc.preset_transform(preset.name), []
    expected = expected_logits(preset)
    if expected is not None:
        logits = model.predict_on_batch(transform(photo)[None])[0, : len(expected)]
        deviation = float(np.max(np.abs(logits - np.asarray(expected, "float32"))))
        row |= {"logits": [float(value) for value in logits], "expected_logits": expected, "deviation": deviation}
        agrees.append(bool(deviation <= LOGITS_TOLERANCE))  # a NaN does not agree
    if pictures:
        top1, tolerance = top1_of(model, transform, pictures, batch), top1_tolerance(preset.top1_timm, len(pictures))
        row |= {"top1": top1, "expected_top1": preset.top1_timm, "tolerance": tolerance, "pictures": len(pictures)}
        agrees.append(abs(top1 - preset.top1_timm) <= tolerance)
    return row | ({"result": "agrees" if all(agrees) else "deviates"} if agrees else {})


def table(rows):
    """The report for reading."""
    lines = [f"{'preset':44} {'result':9} {'logits off by':>13} {'top-1':>7} {'published':>9}"]
    for row in rows:
        deviation = f"{row['deviation']:.1e}" if "deviation" in row else "-"
        top1 = [f"{row[key]:.2f}" if key in row else "-" for key in ("top1", "expected_top1")]
        lines.append(f"{row['name']:44} {row['result']:9} {deviation:>13} {top1[0]:>7} {top1[1]:>9}")
        if "error" in row:
            lines.append(f"    {row['error']}")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="*", metavar="PATTERN", help='of names, such as "*tiny*" (default: all)')
    parser.add_argument("--image", metavar="FILE", help="the COCO photo 000000039769, where it cannot be downloaded")
    parser.add_argument("--imagenet", metavar="FOLDER", help="validation pictures in folders named by WordNet id")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="pictures at a time")
    parser.add_argument("--out", metavar="FILE", help="write the report there, as JSON")
    options = parser.parse_args(arguments)
    chosen = [preset for preset in kc.list_presets() if fnmatch.fnmatchcase(preset.name, options.presets)]
    if not chosen:
        parser.error(f"no preset is called like {options.presets!r}; keras_convnextv2.list_presets() has all names")
    pictures = labelled_pictures(options.imagenet) if options.imagenet else []
    photo = options.image or keras.utils.get_file(origin=PHOTO)  # fails now rather than after an hour
    rows = []
    for number, preset in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {preset.name}, {4 * preset.parameters / 1e6:.0f} MB", flush=True)
        rows.append(check(preset, photo, pictures, options.batch))
        gc.collect()  # a model is a cycle of references: Huge must go before the next one comes
    print(table(rows))
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["result"] in ("failed", "deviates") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
