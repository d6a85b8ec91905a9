"""What a pod needs for the paper's runs, calculated: `python -m tools.pod [--chip NAME] [--chips N]` prints a table.

Nothing here is measured but PREPARING and the paper's hours. A multiply-accumulate counts as two operations, backward
as twice the forward pass.
"""

import argparse
import math

from keras_convnextv2.sizes import SIZES

PEAK = {"v5e": 197e12, "A100": 312e12, "H100": 989e12}  # operations a second in bfloat16, dense, as their makers say
UTILISATION = 0.22  # of the peak: what the paper's 7.7 hours come to (appendix: Base, 800 epochs, 256 cores of TPU v3)
# Seconds of a core for a picture, by whether FCMAE: docs/performance.md, "Input pipeline", and the whole recipe of
# fine-tuning, docs/benchmarks.md, with RandAugment, erasing and mixing.
PREPARING = {True: 2.7e-3, False: 7.9e-3}
IMAGENET = {"1K": (1_281_167, 138e9), "22K": (14_197_122, 1.31e12)}  # pictures and bytes of the published archives
CHIPS_A_HOST = 8
VISIBLE, PATCHES, DECODER, PATCH_NUMBERS = 19, 49, 512, 32 * 32 * 3  # of FCMAE
RUNS = (  # name, size, pixels, set, epochs, whether FCMAE: the paper's tables 8 to 13
    *((f"FCMAE {size.title()}, 1600 epochs", size, 224, "1K", 1600, True) for size in ("atto", "tiny", "base", "huge")),
    ("FCMAE Base, 800 epochs", "base", 224, "1K", 800, True),
    ("fine-tuning Atto, 1K", "atto", 224, "1K", 600, False),
    ("fine-tuning Base, 1K", "base", 224, "1K", 100, False),
    ("fine-tuning Huge, 1K", "huge", 224, "1K", 50, False),
    ("fine-tuning Base, 22K", "base", 224, "22K", 90, False),
    ("fine-tuning Huge, 22K at 384", "huge", 384, "22K", 90, False),
)


def macs(size, side, shown=1.0):
    """Multiply-accumulates of the network without its head, pointwise work and stem on a part of the positions.

    A block of C channels: 49 C of depthwise, on all positions, and 8 C**2 of the two pointwise layers.
    """
    depths, dims = SIZES[size]
    total, before = 0, None
    for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        positions = (side // 4 // 2**stage) ** 2
        entry = 4 * 4 * 3 * dim if before is None else 2 * 2 * before * dim
        total += positions * (shown * entry + depth * (49 * dim + shown * 8 * dim**2))
        before = dim
    return total


def operations(size, side, pretraining):
    """Of a training step, a picture."""
    if not pretraining:
        return 3 * 2 * macs(size, side)
    decoder = SIZES[size][1][-1] * DECODER + 49 * DECODER + 8 * DECODER**2 + DECODER * PATCH_NUMBERS
    return 3 * 2 * (macs(size, side, VISIBLE / PATCHES) + PATCHES * decoder)


def row(run, chip, chips, cores):
    name, size, side, data, epochs, pretraining = run
    count, size_on_disk = IMAGENET[data]
    work, hosts = operations(size, side, pretraining), math.ceil(chips / CHIPS_A_HOST)
    wanted, each = PEAK[chip] * UTILISATION / work * chips, PREPARING[pretraining]
    rate = min(wanted, hosts * cores / each)
    network = rate * size_on_disk / count / hosts
    cells = [f"{work / 1e9:,.1f}", f"{wanted / chips:,.0f}", f"{wanted:,.0f}", f"{wanted * each / hosts:,.1f}"]
    cells += [f"{rate:,.0f}", f"{network / 1e6:,.0f}", f"{size_on_disk / 1e9:,.0f}"]
    return f"| {name} | {' | '.join(cells)} | {epochs * count / rate / 3600:,.1f} |"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--chip", choices=PEAK, default="v5e")
    options.add_argument("--chips", type=int, default=64, help=f"{CHIPS_A_HOST} a host")
    options.add_argument("--cores", type=int, default=112, help="of a host")
    options = options.parse_args()
    columns = ["GFLOP a picture", "pictures/s a chip could take", "all chips", "cores a host for that", "pictures/s"]
    columns += ["MB/s a host", "disk, GB", "hours"]
    print(f"| {options.chips} {options.chip} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for run in RUNS:
        print(row(run, options.chip, options.chips, options.cores))


if __name__ == "__main__":
    main()
