"""FCMAE pre-training.

    python -m training.pretrain --recipe pretrain_cifar --data folder:PATH --workdir runs/pretrained

Any folder of pictures will do: labels are not used.
"""

import functools

import keras_convnextv2 as kc
from keras_convnextv2.whole import write_weights
from training.configs import Pretrain
from training.data import Augmentation, open_source, pretraining_example
from training.fields import as_flags, command_line
from training.optimizers import pretrain_rules
from training.program import launch
from training.recipes import RECIPES, following
from training.run import Task

SPLIT = "unlabelled"
WEIGHTS = "fcmae.weights.h5"


def build(config):
    """The FCMAE of a config, on a backbone without a head."""
    side = (*config.image_size, config.channels)
    kinds = {"stem_patch_size": config.stem_patch_size, "remat": config.remat, "dtype": config.dtype}
    backbone = kc.ConvNeXtV2(*config.network, include_top=False, input_shape=side, **kinds)
    decoder = {"decoder_dim": config.decoder_dim, "decoder_depth": config.decoder_depth}
    masks = {"patch_size": config.mask_patch_size, "mask_ratio": config.mask_ratio, "seed": config.seed}
    return kc.FCMAE(backbone, **masks, **decoder, norm_pix_loss=config.norm_pix_loss)


def sample_losses(fcmae, batch):
    return fcmae.sample_losses(batch["images"], batch["visible"], training=True)


def _labelled(data):
    """(the same data, what they train on) where a classifier can be trained and tested on them, else (a word, None)."""
    try:
        train, test = (open_source(data, split, keep=False) for split in ("train", "test"))
    except (ValueError, OSError):
        return "folder:LABELLED_PICTURES", None
    return (data, train) if train.classes == test.classes else ("folder:LABELLED_PICTURES", None)


def prepare(config, data, say, devices):
    opened = functools.partial(open_source, data, SPLIT, channels=config.channels, download=config.download)
    source = devices.in_turn(opened, config.download)  # the first one downloads and prepares
    devices.require_same_pictures(source)
    fcmae = build(config)

    def save(folder):
        write = functools.partial(write_weights, fcmae)
        return {"model": folder.save_model(fcmae.backbone), "weights": folder.write(WEIGHTS, write)}

    def next_lines(results):
        labelled, source = _labelled(data)
        name, settings = following(config, source and source.count, devices.count)
        if source and source.held_out not in (None, RECIPES[name].validation_split):
            settings["validation_split"] = source.held_out
        words = ["--recipe", name, "--data", labelled, "--workdir", f"{results['folder']}_finetuned"]
        return [command_line("finetune", *words, *as_flags({**settings, "init": results["folder"]}))]

    return Task(
        model=fcmae,
        rules=pretrain_rules(config.decay_grn),
        sample_losses=sample_losses,
        source=source,
        example=pretraining_example(Augmentation.of(config), *fcmae.visible_patches(config.image_size)),
        save=save,
        next_lines=next_lines,
    )


if __name__ == "__main__":
    launch(Pretrain, prepare, SPLIT)
