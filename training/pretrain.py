"""FCMAE pre-training.

    python -m training.pretrain --recipe pretrain_cifar --data folder:PATH --workdir runs/pretrained

Any folder of pictures will do: labels are not used.
"""

import keras

import keras_convnextv2 as kc
from training.configs import Pretrain
from training.data import open_source
from training.optimizers import pretrain_rules
from training.program import launch
from training.recipes import require_parts
from training.session import Session, farewell
from training.workdir import Workdir

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


def run(config, workdir, data, resume=False, log=print):
    """Pre-trains and returns results: folder, model, weights, steps, loss, first_loss, seconds, losses."""
    require_parts(config)
    folder = Workdir(workdir, "pretrain", config, data, resume)
    source = open_source(data, SPLIT, channels=config.channels)
    keras.utils.set_random_seed(config.seed)
    fcmae = build(config)
    mask = (config.mask_patch_size, config.mask_ratio)
    rules = pretrain_rules(config.decay_grn)
    config.epoch_steps(source.count)  # refuses too large a batch before the folder is taken
    path = folder.open()
    session = Session(config, folder, source, fcmae, rules, sample_losses, mask=mask, resume=resume, say=log)
    log(session.describe())
    results = session.run()
    fcmae.save_weights(path / WEIGHTS)
    model = folder.save_model(fcmae.backbone)
    results |= {"folder": str(path), "model": str(model), "weights": str(path / WEIGHTS)}
    folder.write_results(results)
    farewell(
        log,
        results,
        [
            f"python -m training.finetune --recipe finetune_... --data {data} --set init={path} --workdir NEW",
            f"tensorboard --logdir {path / 'tensorboard'}",
        ],
    )
    return results


if __name__ == "__main__":
    launch(Pretrain, run, SPLIT)
