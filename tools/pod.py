"""What a pod needs for the paper's runs, calculated: `python -m tools.pod [--chip NAME] [--chips N]` prints a table.

Nothing here is measured but PREPARING and the paper's hours. A multiply-accumulate counts as two operations, backward
as twice the forward pass.
"""

import argparse
import dataclasses
import math

from training.configs import Pretrain
from training.cost import CHIPS, multiplications
from training.recipes import RECIPES

# Operations a second in bfloat16, dense, as their makers say.
PEAK = {"v5e": 197e12, **{name: 1e12 * CHIPS[name]["mixed_bfloat16"] for name in ("A100", "H100")}}
UTILISATION = 0.22  # of the peak: what the paper's 7.7 hours come to (appendix: Base, 800 epochs, 256 cores of TPU v3)
# Seconds of a core for a picture, by whether FCMAE: docs/performance.md, "Input pipeline", and the whole recipe of
# fine-tuning, docs/benchmarks.md, with RandAugment, erasing and mixing.
PREPARING = {True: 2.7e-3, False: 7.9e-3}
IMAGENET = {"1K": (1_281_167, 138e9, 1000), "22K": (14_197_122, 1.31e12, 21_841)}  # pictures, bytes (archives), classes
CHIPS_A_HOST = 8
RUNS = (  # name, recipe, set, and what differs from the recipe
    *((f"FCMAE {size.title()}, 1600 epochs", f"fcmae_{size}", "1K") for size in ("atto", "tiny", "base", "huge")),
    ("FCMAE Base, 800 epochs", "fcmae_800_base", "1K"),
    *((f"fine-tuning {size.title()}, 1K", f"finetune_{size}", "1K") for size in ("atto", "base", "huge")),
    ("fine-tuning Base, 22K", "finetune_22k_base", "22K"),
    ("fine-tuning Huge, 22K at 384", "finetune_22k_huge", "22K", {"image_size": (384, 384)}),
)


def row(chip, chips, cores, name, recipe, data, changes=None):
    config = dataclasses.replace(RECIPES[recipe], **(changes or {}))
    count, size_on_disk, classes = IMAGENET[data]
    work, hosts = 3 * 2 * multiplications(config, classes), math.ceil(chips / CHIPS_A_HOST)
    wanted, each = PEAK[chip] * UTILISATION / work * chips, PREPARING[isinstance(config, Pretrain)]
    rate = min(wanted, hosts * cores / each)
    network = rate * size_on_disk / count / hosts
    cells = [f"{work / 1e9:,.1f}", f"{wanted / chips:,.0f}", f"{wanted:,.0f}", f"{wanted * each / hosts:,.1f}"]
    cells += [f"{rate:,.0f}", f"{network / 1e6:,.0f}", f"{size_on_disk / 1e9:,.0f}"]
    return f"| {name} | {' | '.join(cells)} | {config.epochs * count / rate / 3600:,.1f} |"


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
        print(row(options.chip, options.chips, options.cores, *run))


if __name__ == "__main__":
    main()
