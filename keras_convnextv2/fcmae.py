"""FCMAE: the fully convolutional masked autoencoder that pre-trains ConvNeXt V2."""

import keras
import numpy as np
from keras import ops

from keras_convnextv2.layers import (
    Decoder,
    MaskedMap,
    Preprocessing,
    Visible,
    cut_patches,
    join_patches,
    visible_count,
)
from keras_convnextv2.layers.composite import apply_settings, plain, settings_of
from keras_convnextv2.layers.network import (
    entry,
    layers_in_front,
    network_layers,
    preprocessing_of,
    stages_of,
    total_stride,
)
from keras_convnextv2.portable import AroundBackbone

# What may stand between the pictures and the network: layers that treat each pixel alone and learn nothing.
PER_PIXEL = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.Identity,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.Activation,  # with a function of Keras: they mix channels at most
    Preprocessing,
)
TARGET_EPSILON = 1e-6  # inside the root of a patch's deviation (reference models/fcmae.py:175)


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class FCMAE(AroundBackbone, keras.Model):
    """Masked autoencoder around a backbone: hide patches, encode the visible ones, predict the hidden ones' pixels.

    The encoder is sparse by gathering: it works on the rows of visible patches alone, and only the depthwise
    convolution sees the map, with zeros at hidden patches. That equals the masked dense network exactly.

    `fit` takes a data set of images (B, H, W, C); masks are drawn inside. To give them, let it yield
    {"images": ..., "visible": ...}. Anything random about masks comes from `seed`.

    With `norm_pix_loss` the target is each patch normalised by its own mean and deviation.

    Args:
        backbone: made by `ConvNeXtV2` or one of the constructors; its weights are shared, a head is not used.
        patch_size: side of a patch, a multiple of the backbone's total stride, which is the default (32).
        mask_ratio: share of patches that are hidden; `int(L * (1 - mask_ratio))` of L stay.
        decoder_dim, decoder_depth: channels and blocks of the decoder.
        norm_pix_loss: normalise each patch of the target.
        seed: of the masks.
    Raises:
        ValueError: a ratio outside (0, 1) or that leaves no visible or no hidden patch; a patch size that does not
            fit the backbone; images that it does not cut evenly; `visible` that is not the indices of patches;
            layers in front of the network that look at neighbours or learn.
    Shapes:
        images (B, H, W, C), visible (B, K) int32 -> prediction (B, L, patch_size * patch_size * C)
    Units:
        images 0..255 if the backbone includes preprocessing, else already normalised.
    Source:
        ConvNeXt V2, section 3 and appendix; reference models/fcmae.py. GRN is per image, as in the JAX definition
        that made the paper's numbers (TRAINING.md), not over the batch as in models/utils.py:28.
    """

    def __init__(
        self,
        backbone,
        *,
        patch_size=None,
        mask_ratio=0.6,
        decoder_dim=512,
        decoder_depth=1,
        norm_pix_loss=True,
        seed=None,
        name="fcmae",
        parts=None,
        **kwargs,
    ):
        patch_size, mask_ratio, norm_pix_loss = plain(patch_size), plain(mask_ratio), plain(norm_pix_loss)
        decoder_dim, decoder_depth, seed = plain(decoder_dim), plain(decoder_depth), plain(seed)
        last = stages_of(backbone)[-1]
        super().__init__(name=name, dtype=last.dtype_policy, **kwargs)
        self.stride = total_stride(backbone)
        if not 0 < mask_ratio < 1:
            hint = f" Did you mean {mask_ratio / 100}?" if 1 < mask_ratio < 100 else ""
            raise ValueError(f"mask_ratio must be in (0, 1). Received: {mask_ratio!r}.{hint}")
        if patch_size is not None and (patch_size < 1 or patch_size % self.stride):
            raise ValueError(
                f"patch_size must be a multiple of the backbone's total stride {self.stride}. Received: {patch_size!r}."
            )
        self.backbone = backbone
        self.patch_size = patch_size or self.stride
        self.mask_ratio = mask_ratio
        self.decoder_dim = decoder_dim
        self.decoder_depth = decoder_depth
        self.norm_pix_loss = norm_pix_loss
        self.seed = seed
        self.seeds = keras.random.SeedGenerator(seed)
        self.autocast = False  # pictures stay whole until the stem, targets until the loss
        self._in_front = _in_front(backbone)
        self.channels = backbone.input_shape[-1]
        pixels = self.stride * self.stride * self.channels
        self.decoder = Decoder(decoder_dim, decoder_depth, pixels, dtype=last.dtype_policy, name="decoder")
        apply_settings(self, self.heads, parts)
        self.decoder.build((None, None, last.dim))
        self.built = True
        if None not in backbone.input_shape[1:3]:
            self.visible_patches(backbone.input_shape[1:3])  # raises here, not at the first batch

    @property
    def heads(self):
        """The layers beside the backbone."""
        return [self.decoder]

    def call(self, inputs, training=None):
        images, patches = self._images_and_patches(inputs)
        pixels = self._cut(images)
        prediction = self._predicted(self._features(pixels, patches, training))
        self.add_loss(self._loss(pixels, prediction, patches))
        return prediction

    def encode(self, images, visible, dense=False):
        """(B, H, W, C), (B, K) -> the encoder's last map (B, h, w, C'), zero at hidden patches.

        `dense=True` computes it by the masked dense network instead: the definition, for tests and benchmarks.
        """
        patches = self._patches(images, visible, dense)
        x = self._encoded(self._cut(images), patches, training=False)
        return x * ops.cast(patches.mask_of(x), x.dtype) if dense else patches.map(x)

    def sample_losses(self, images, visible, training=None, dense=False):
        """The loss of each image, (B,) float32: the mean square error over its hidden patches.

        Every image hides the same number of patches, so the mean over the batch is `reconstruction_loss`. Only hidden
        patches are predicted.
        """
        patches, pixels = self._patches(images, visible, dense), self._cut(images)
        hidden = patches.hidden()
        prediction = self._predicted(hidden.keep(self._features(pixels, patches, training)))
        return self._hidden_losses(hidden.keep(pixels), prediction)

    def reconstruction_loss(self, images, prediction, visible):
        """(B, H, W, C), (B, L, P * P * C), (B, K) -> scalar: over hidden patches, sum over the batch / their number."""
        return self._loss(self._cut(images), ops.cast(prediction, "float32"), self._patches(images, visible))

    def _loss(self, pixels, prediction, patches):
        hidden = patches.hidden()
        return ops.mean(self._hidden_losses(hidden.keep(pixels), hidden.keep(prediction)))

    def _hidden_losses(self, pixels, prediction):
        """Hidden patches (B, n, F) -> the loss of each image, (B,)."""
        return ops.mean(ops.square(prediction - self._target(pixels)[0]), axis=(1, 2))

    def reconstruct(self, images, visible=None):
        """Pictures with the hidden patches replaced by their prediction, as a float32 numpy array (B, H, W, C).

        With `norm_pix_loss` a prediction only gives a patch's pattern: its mean and deviation are taken from the
        original, so its brightness and contrast, and much of its colour, are leaked, not predicted. Say so beside it.

        Units:
            0..255 if the backbone includes preprocessing, else those of the images; behind layers in front of it.
        """
        images = ops.convert_to_tensor(images)
        if visible is None:
            visible = self.draw_visible(images)
        patches, pixels = self._patches(images, visible), self._cut(images)
        prediction = ops.cast(self({"images": images, "visible": patches.visible}, training=False), "float32")
        if self.norm_pix_loss:
            _, mean, deviation = self._target(pixels)
            prediction = prediction * deviation + mean
        stays = ops.cast(patches.stays, "float32")[:, :, None]
        pasted = join_patches(pixels * stays + prediction * (1 - stays), patches.grid, self.channels)
        if (preprocessing := preprocessing_of(self)) is not None:
            pasted = ops.clip(preprocessing.undo(pasted), 0, 255)
        return ops.convert_to_numpy(pasted)

    def visible_patches(self, size):
        """Of an image of `size` = (H, W): the number of its patches and of the visible ones, (L, K)."""
        height, width = _grid(size, self.patch_size)
        total = height * width
        count = visible_count(total, self.mask_ratio)
        if not 0 < count < total:
            kind = "visible" if count == 0 else "hidden"
            raise ValueError(
                f"mask_ratio {self.mask_ratio} leaves no {kind} patch of {total} in an image {tuple(size)} with "
                f"patch_size {self.patch_size}. Take another ratio, a larger image or a smaller patch."
            )
        return total, count

    def draw_visible(self, images):
        """Random visible patches for a batch of images: (B, K) int32, sorted."""
        total, count = self.visible_patches(images.shape[1:3])
        noise = keras.random.uniform((ops.shape(images)[0], total), seed=self.seeds)
        return ops.cast(ops.sort(ops.argsort(noise, axis=1)[:, :count], axis=1), "int32")

    def grid(self, images):
        """The patches (h, w) of a batch of images."""
        return _grid(images.shape[1:3], self.patch_size)

    # The steps

    @property
    def _positions(self):
        """Positions of the last map along one side of a patch."""
        return self.patch_size // self.stride

    def _images_and_patches(self, inputs):
        if isinstance(inputs, dict):
            images, visible = inputs["images"], inputs.get("visible")
        elif isinstance(inputs, (tuple, list)):
            raise ValueError(
                'images with their masks must be {"images": ..., "visible": ...}, since `fit` takes a tuple for images '
                f"and labels. Received: a {type(inputs).__name__} of {len(inputs)}."
            )
        else:
            images, visible = inputs, None
        if visible is None:
            return images, Visible(self.draw_visible(images), self.grid(images), ordered=True)
        return images, self._patches(images, visible)

    def _patches(self, images, visible, dense=False):
        grid = self.grid(images)
        return (MaskedMap if dense else Visible)(ops.convert_to_tensor(check_visible(visible, images, grid)), grid)

    def _cut(self, images):
        """Pictures (B, H, W, C) -> the pixels of their patches (B, L, P * P * C), float32 in network units."""
        if self._in_front is not None:
            images = self._in_front(images)
        preprocessing = preprocessing_of(self)
        images = ops.cast(images, "float32") if preprocessing is None else preprocessing.normalise(images)
        return cut_patches(images, self.patch_size)

    def _features(self, pixels, patches, training):
        """The decoder's features of each patch (B, L, m * m * decoder_dim), of its m x m positions."""
        x = self._encoded(pixels, patches, training)
        x = self.decoder(x if len(x.shape) == 3 else patches.rows(x), patches=patches, training=training)
        return cut_patches(x, self._positions)

    def _encoded(self, pixels, patches, training):
        """The visible rows (B, N, C') after the last stage, or with a `MaskedMap` its map (B, h, w, C')."""
        stem, stages = network_layers(self.backbone)["stem"], stages_of(self.backbone)
        x = ops.cast(pixels, stem.compute_dtype)
        if isinstance(patches, MaskedMap):
            x = stem(join_patches(x, patches.grid, self.channels))
        else:
            x = patches.each(
                stem, ops.reshape(patches.keep(x), (-1, patches.count * self.patch_size**2, self.channels))
            )
        for stage in stages:
            x = stage(x, patches=patches, training=training)
        return x

    def _predicted(self, features):
        """Features of patches (B, n, m * m * decoder_dim) -> their pixels (B, n, P * P * C), float32."""
        count, side = features.shape[1], self._positions
        x = self.decoder.pred(ops.reshape(features, (-1, count * side * side, self.decoder_dim)))
        x = join_patches(ops.reshape(x, (-1, side * side, x.shape[-1])), (side, side), self.channels)
        return ops.cast(ops.reshape(x, (-1, count, self.patch_size**2 * self.channels)), "float32")

    def _target(self, pixels):
        """Pixels of patches (B, n, F) -> the target, and each patch's mean and deviation (B, n, 1)."""
        mean = ops.mean(pixels, axis=-1, keepdims=True)
        unbiased = ops.sum(ops.square(pixels - mean), axis=-1, keepdims=True) / (pixels.shape[-1] - 1)
        deviation = ops.sqrt(unbiased + TARGET_EPSILON)
        return ((pixels - mean) / deviation if self.norm_pix_loss else pixels), mean, deviation

    def get_config(self):
        own = ("patch_size", "mask_ratio", "decoder_dim", "decoder_depth", "norm_pix_loss", "seed")
        config = {name: getattr(self, name) for name in own}
        config |= {"name": self.name, "trainable": self.trainable, "parts": settings_of(self, self.heads)}
        return {**config, "backbone": keras.saving.serialize_keras_object(self.backbone)}


def _in_front(backbone):
    """What layers in front of the network do to pictures, or None; it is no layer, which the FCMAE would save twice."""
    layers = layers_in_front(backbone)
    unfit = [layer for layer in layers if not _is_per_pixel(layer)]
    if unfit or len(backbone.inputs) != 1:
        names = ", ".join(kind.__name__ for kind in PER_PIXEL)
        found = f"{type(unfit[0]).__name__} {unfit[0].name!r}" if unfit else f"{len(backbone.inputs)} inputs"
        raise ValueError(
            f"in front of the network FCMAE runs layers that treat each pixel alone and learn nothing ({names}), "
            f"on one input. Received: {found}."
        )
    return keras.Model(backbone.input, entry(backbone)).call if layers else None


def _is_per_pixel(layer):
    function = getattr(layer, "activation", None)
    known = function is None or getattr(keras.activations, getattr(function, "__name__", ""), None) is function
    return isinstance(layer, PER_PIXEL) and known


def check_visible(visible, images, grid):
    """`visible` as it came; raises where it can be seen not to be the indices of the patches that stay.

    Values are looked at outside of compiled code. A GPU waits for it there, but an index that is no patch would end in
    an assertion on the device, after which torch's process is lost.
    """
    total = grid[0] * grid[1]
    shape, kind = tuple(np.shape(visible)), _kind(visible)
    found = None
    if not kind.startswith(("int", "uint")):
        found = f"{kind} of shape {shape}"
    elif len(shape) != 2 or None not in (shape[0], images.shape[0]) and shape[0] != images.shape[0]:
        found = f"shape {shape} for images {tuple(images.shape)}"
    elif not 0 < shape[1] < total:
        found = f"shape {shape}, of {total} patches"
    elif (seen := _seen(visible)) is not None:
        wrong = [("index {}", (seen < 0) | (seen >= total))]
        ordered = np.sort(seen, axis=1)
        wrong += [("index {} twice", np.pad(ordered[:, 1:] == ordered[:, :-1], ((0, 0), (0, 1))))]
        for (text, places), values in zip(wrong, (seen, ordered), strict=True):
            if places.any():
                row, column = np.argwhere(places)[0]
                found = f"{text.format(values[row, column])} in row {row}"
                break
    if found:
        raise ValueError(
            f"visible must be the indices of the K patches that stay in each image, integers (B, K) in [0, {total}), "
            f"each once. Received: {found}. From a map of ones where a patch stays: "
            'np.argsort(1 - map.reshape(len(map), -1), axis=1, kind="stable")[:, :K].'
        )
    return visible


def _kind(visible):
    if isinstance(visible, np.ndarray | list | tuple):
        return str(np.asarray(visible).dtype)
    return keras.backend.standardize_dtype(visible.dtype)


def _seen(visible):
    """The values as a numpy array, None where they are not at hand."""
    if isinstance(visible, np.ndarray | list | tuple):
        return np.asarray(visible)
    try:
        return ops.convert_to_numpy(visible)
    except Exception:  # each backend has an error of its own for a tensor that is being traced
        return None


def _grid(size, patch_size):
    height, width = size
    if height is None or width is None:
        raise ValueError(f"FCMAE needs images of a known size. Received: {tuple(size)}.")
    if height % patch_size or width % patch_size or 0 in (height, width):
        around = [sorted({n // patch_size * patch_size, -(-n // patch_size) * patch_size} - {0}) for n in size]
        nearest = ", ".join(str((h, w)) for h in around[0] for w in around[1])
        raise ValueError(
            f"image {tuple(size)} is not divisible by the patch size {patch_size}. Nearest sizes: {nearest}."
        )
    return height // patch_size, width // patch_size
