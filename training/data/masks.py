"""Which patches stay visible, drawn with the data so that a mask depends on its sample alone."""

import numpy as np


def random_visible(rng, patches, visible):
    """Sorted indices (visible,) int32 of the patches that stay: every choice is equally likely."""
    return np.sort(rng.permutation(patches)[:visible]).astype("int32")
