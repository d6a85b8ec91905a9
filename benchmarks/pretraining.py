"""A whole FCMAE training step, sparse or masked dense, for `benchmarks.fcmae`."""

import numpy as np

from benchmarks.contestants import keras_versions, pictures


def fcmae(method, size, batch, side, dtype, mask_ratio=0.6):
    """One `train_on_batch` of encoder, decoder, loss, gradients and AdamW; method "sparse" or "dense"."""
    import keras

    import keras_convnextv2 as kc

    class Pretraining(keras.Model):
        """FCMAE's loss with the masks as an input, by either formulation."""

        def __init__(self, model):
            super().__init__()
            self.fcmae = model

        def call(self, inputs, training=None):
            losses = self.fcmae.sample_losses(*inputs, training=training, dense=method == "dense")
            self.add_loss(keras.ops.mean(losses))
            return losses

    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    build = getattr(kc, f"ConvNeXtV2{size.capitalize()}")
    backbone = build(include_top=False, include_preprocessing=False, input_shape=(side, side, 3), dtype=policy)
    inner = kc.FCMAE(backbone, mask_ratio=mask_ratio)
    total, count = inner.visible_patches((side, side))
    rng = np.random.default_rng(0)
    visible = np.stack([np.sort(rng.permutation(total)[:count]) for _ in range(batch)]).astype("int32")
    images, visible = map(keras.ops.convert_to_tensor, (pictures(batch, side)[0], visible))
    model = Pretraining(inner)
    optimizer = keras.optimizers.AdamW(1.5e-4, beta_2=0.95)
    optimizer.build(inner.trainable_variables)
    model.compile(optimizer)
    return lambda: model.train_on_batch((images, visible)), keras_versions()
