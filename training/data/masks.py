"""Which patches stay visible, drawn with the data so that a mask depends on its sample alone."""

import tensorflow as tf


def patch_counts(image_size, patch_size, mask_ratio):
    """(patches of an image, visible ones): L and K = int(L * (1 - mask_ratio))."""
    height, width = image_size
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"images must divide into patches. Received: image_size=({height}, {width}), patch_size={patch_size!r}. "
            f"Nearest sizes below: ({height - height % max(patch_size, 1)}, {width - width % max(patch_size, 1)})"
        )
    if not 0 < mask_ratio < 1:
        hint = f" Did you mean {mask_ratio / 100}?" if 1 < mask_ratio < 100 else ""
        raise ValueError(f"mask_ratio must be in (0, 1). Received: {mask_ratio!r}.{hint}")
    patches = (height // patch_size) * (width // patch_size)
    visible = int(patches * (1 - mask_ratio))
    if not 0 < visible < patches:
        raise ValueError(
            f"a mask must leave visible and hidden patches. Received: mask_ratio={mask_ratio!r}, which shows {visible} "
            f"of the {patches} patches of an image ({height}, {width}). Smaller patches or another ratio would do"
        )
    return patches, visible


def random_visible(seed, patches, visible):
    """Sorted indices (visible,) int32 of the patches with the smallest noise: every choice is equally likely."""
    noise = tf.random.stateless_uniform([patches], seed, alg="philox")
    return tf.sort(tf.math.top_k(-noise, visible, sorted=False).indices)
