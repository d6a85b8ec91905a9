"""The paper's ablations on a small set: each variant is pre-trained and fine-tuned, and one table is written.

    python -m training.ablate --workdir runs/ablation --seeds 3 --variants default,grn_off,mask_0.5

A cell that is done is not done again, one that was stopped goes on. The variants change models that were built: the
package knows nothing of them.
"""

import argparse
import csv
import dataclasses
import statistics
import sys

import keras
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.layers.network import stages_of
from keras_convnextv2.layers.visible import MaskedMap
from keras_convnextv2.whole import write_whole
from training import finetune, pretrain
from training.cluster import require_one_process
from training.command import begin, exit_code
from training.configs import Finetune, Pretrain
from training.fields import nearest, require, with_settings
from training.logs import Terminal
from training.recipes import find_recipe
from training.run import once
from training.workdir import folder_of

# GRN's variants: functions in place of the block's GELU and GRN, (B, N, C), gamma, beta, epsilon -> (B, N, C).


def l2(x):
    return ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=1, keepdims=True), 1e-24))


def l1(x):
    return ops.sum(ops.abs(x), axis=1, keepdims=True)


def mean_pool(x):
    return ops.mean(x, axis=1, keepdims=True)


def share(g, epsilon):
    return g / (ops.mean(g, axis=-1, keepdims=True) + epsilon)


def standardised(g, epsilon):
    centred = g - ops.mean(g, axis=-1, keepdims=True)
    return centred / ops.sqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + epsilon)


def inverse(g, epsilon):
    return ops.ones_like(g) / (ops.mean(g, axis=-1, keepdims=True) + epsilon)


def grn_with(aggregate=l2, normalise=share, residual=True):
    def gelu_grn(x, gamma, beta, epsilon):
        exact = ops.gelu(ops.cast(x, keras.backend.result_type(x.dtype, "float32")), approximate=False)
        y = gamma * exact * normalise(aggregate(exact), epsilon) + beta
        return ops.cast(y + exact if residual else y, x.dtype)

    return gelu_grn


def gelu_alone(x, gamma, beta, epsilon):
    return ops.gelu(x, approximate=False)


LAYER_SCALE = 1e-6  # V1's first value


def scaled_like_v1(block):
    """V1's block: no GRN, and a factor for each channel of what the branch gives.

    The factors are LAYER_SCALE plus the first of GRN's gammas, which start at zero and do not decay.
    """
    block.grn._kernel = gelu_alone
    project, gamma = block.project.call, block.grn.gamma

    def scaled(x):
        y = project(x)
        return y * ops.cast(LAYER_SCALE + kernels.tensor_of(gamma)[: block.dim], y.dtype)

    block.project.call = scaled


BLOCKS = {
    "grn_off": gelu_alone,
    "grn_l1": grn_with(aggregate=l1),
    "grn_mean_pool": grn_with(aggregate=mean_pool),
    "grn_standardised": grn_with(normalise=standardised),
    "grn_inverse": grn_with(normalise=inverse),
    "grn_no_residual": grn_with(residual=False),
}


def change_blocks(blocks, kind):
    for block in blocks:
        if kind == "v1_block":
            scaled_like_v1(block)
        elif kind in BLOCKS:
            block.grn._kernel = BLOCKS[kind]


# The FCMAE's variants: losses of the samples.


class Unmasked(MaskedMap):
    """The dense map without a mask in any layer."""

    def through(self, layer, x):
        return layer(x)

    def mask_of(self, x):
        return None


def losses_on_all_patches(fcmae, batch):
    patches, pixels = fcmae._patches(batch["images"], batch["visible"]), fcmae._cut(batch["images"])
    prediction = fcmae._predicted(fcmae._features(pixels, patches, training=True))
    return fcmae._hidden_losses(pixels, prediction)


def losses_without_masks_inside(fcmae, batch):
    """Hidden pixels are zero, and what a dense encoder makes of them spreads into the visible patches."""
    patches, pixels = Unmasked(batch["visible"], fcmae.grid(batch["images"])), fcmae._cut(batch["images"])
    shown, hidden = pixels * ops.cast(patches.stays, pixels.dtype)[:, :, None], patches.hidden()
    prediction = fcmae._predicted(hidden.keep(fcmae._features(shown, patches, training=True)))
    return fcmae._hidden_losses(hidden.keep(pixels), prediction)


LOSSES = {"loss_on_all_patches": losses_on_all_patches, "no_masks_inside": losses_without_masks_inside}


def pretraining(kind):
    def prepare(config, data, say, devices):
        task = pretrain.prepare(config, data, say, devices)
        change_blocks(blocks_of(task.model), kind)
        return dataclasses.replace(task, sample_losses=LOSSES.get(kind, task.sample_losses))

    return prepare


def finetuning(kind):
    def prepare(config, data, say, devices):
        task = finetune.prepare(config, data, say, devices)
        change_blocks(blocks_of(task.model), kind)
        return task

    return prepare


def blocks_of(model):
    """All blocks of a classifier, or of an FCMAE with its decoder."""
    decoder = getattr(model, "decoder", None)
    return [block for part in (*stages_of(model), *([decoder] if decoder else [])) for block in part.blocks]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Args:
        pretrain, finetune: what is changed in each half: a name of BLOCKS or LOSSES, or "v1_block"; "" for nothing.
        settings: `key=value` of the pre-training.
        paper: top-1 of the paper's row, Base on ImageNet-1K, pre-trained for 800 epochs; None: no number in its tables.
        source: the paper's table.
    """

    pretrain: str = ""
    finetune: str = ""
    settings: tuple[str, ...] = ()
    paper: float | None = None
    source: str = ""


def both(kind, paper=None, source=""):
    return Variant(pretrain=kind, finetune=kind, paper=paper, source=source)


VARIANTS = {
    "default": Variant(paper=84.6, source="table 2"),
    "grn_off": both("grn_off"),
    "v1_block": both("v1_block", 83.7, "table 2, the baseline"),
    "grn_only_finetune": Variant(pretrain="grn_off", paper=80.6, source="table 2"),
    "grn_only_pretrain": Variant(finetune="grn_off", paper=78.8, source="table 2"),
    "grn_l1": both("grn_l1", 84.3, "table 2"),
    "grn_mean_pool": both("grn_mean_pool", 83.7, "table 2"),
    "grn_standardised": both("grn_standardised", 84.5, "table 2"),
    "grn_inverse": both("grn_inverse", 83.8, "table 2"),
    "grn_no_residual": both("grn_no_residual", 84.0, "table 2"),
    **{f"mask_{ratio}": Variant(settings=(f"mask_ratio={ratio}",)) for ratio in (0.4, 0.5, 0.7, 0.8)},
    **{
        f"decoder_depth_{depth}": Variant(settings=(f"decoder_depth={depth}",), paper=paper, source="table 1, no GRN")
        for depth, paper in ((2, 83.5), (4, 83.7), (8, 83.6), (12, 83.3))
    },
    **{
        f"decoder_dim_{dim}": Variant(settings=(f"decoder_dim={dim}",), paper=paper, source="table 1, no GRN")
        for dim, paper in ((128, 83.5), (256, 83.7), (512, 83.7), (768, 83.6), (1024, 83.5))
    },
    "loss_on_all_patches": Variant(pretrain="loss_on_all_patches"),
    "no_masks_inside": Variant(pretrain="no_masks_inside", paper=79.3, source="table 1, no GRN; 83.7 with"),
}


def accuracy(name, seed, workdir, data, configs, say):
    """Top-1 of a variant; pre-trainings that are the same for several variants are shared."""
    variant = VARIANTS[name]
    first, second = (dataclasses.replace(config, seed=seed) for config in configs)
    first = with_settings(first, variant.settings)
    named = "_".join([variant.pretrain, *variant.settings]).strip("_").replace("=", "_") or "default"
    pretrained = workdir / f"pretrain_{named}_seed_{seed}"
    once(pretraining(variant.pretrain), first, pretrained, data, say)
    second = dataclasses.replace(second, init=str(pretrained))
    results = once(finetuning(variant.finetune), second, workdir / f"{name}_seed_{seed}", data, say)
    return results["top_1"]


HEAD = ("variant", "top-1 here", "spread", "seeds", "Base on ImageNet-1K in the paper", "source")


def rows(found):
    """{variant: accuracies} -> the table's rows; the spread is the standard deviation over seeds."""
    for name, values in found.items():
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        paper = VARIANTS[name].paper
        mean, paper = f"{statistics.mean(values):.2f}", "" if paper is None else str(paper)
        yield name, mean, spread, str(len(values)), paper, VARIANTS[name].source


def write_tables(workdir, found):
    """table.csv and table.md of the grid so far."""

    def as_csv(path):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *rows(found)])

    def as_markdown(path):
        lines = [HEAD, ["---"] * len(HEAD), *rows(found)]
        path.write_text("".join(f"| {' | '.join(cells)} |\n" for cells in lines), encoding="utf-8")

    write_whole({workdir / "table.csv": as_csv, workdir / "table.md": as_markdown})


def ablate(names, seeds, workdir, data, configs, say):
    """Runs the grid seed by seed, so that every variant has a number early; {variant: accuracies}."""
    require(seeds >= 1, "--seeds must be at least 1", seeds)
    for name in names:
        require(name in VARIANTS, "--variants must name variants", name, nearest(name, VARIANTS))
    workdir, found = folder_of(workdir), {}
    workdir.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            say(f"-- {name}, seed {seed}")
            found.setdefault(name, []).append(accuracy(name, seed, workdir, data, configs, say))
            write_tables(workdir, found)
    return found


def main():
    flags = argparse.ArgumentParser(prog="python -m training.ablate", description=__doc__.splitlines()[0])
    flags.add_argument("--workdir", required=True, help="folder of the grid: a folder a cell, table.csv and table.md")
    flags.add_argument("--data", default="shapes", help="shapes, folder:PATH or tfds:NAME")
    flags.add_argument(
        "--set-name", default="shapes", help="recipes pretrain_NAME and finetune_NAME: shapes, cifar, photos"
    )
    flags.add_argument("--variants", default=",".join(VARIANTS), help="names with commas; all of them by default")
    flags.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    flags.add_argument("--pretrain", action="append", default=[], help="key=value of the pre-training; repeatable")
    flags.add_argument("--finetune", action="append", default=[], help="key=value of the fine-tuning; repeatable")
    given, say = flags.parse_args(), Terminal()

    def body():
        require_one_process("ablate")
        begin()
        configs = [
            with_settings(find_recipe(f"{kind.__name__.lower()}_{given.set_name}", kind), settings)
            for kind, settings in ((Pretrain, given.pretrain), (Finetune, given.finetune))
        ]
        ablate(given.variants.split(","), given.seeds, given.workdir, given.data, configs, say)
        say((folder_of(given.workdir) / "table.md").read_text(encoding="utf-8"))

    return exit_code(body)


if __name__ == "__main__":
    sys.exit(main())
