import operator

import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.depthwise import DepthwiseConv2D
from keras_convnextv2.layers.drop_path import DropPath
from keras_convnextv2.layers.grn import GRN
from keras_convnextv2.layers.norm import LayerNorm
from keras_convnextv2.layers.pointwise import Pointwise

EXPANSION = 4


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class ConvNeXtV2Block(keras.layers.Layer):
    """The residual block: depthwise 7x7, LayerNorm, expand to 4C, GELU and GRN, project to C, drop path, add.

    Called with a map, or with the rows of visible patches and their `Visible`: the same weights serve both.

    Args:
        dim: channels, in and out.
        drop_path: probability that a sample's branch is dropped in training.
        remat: recompute the branch in the backward pass instead of keeping its activations.
        seed: of the drop path.
    Shapes:
        (B, H, W, C) -> (B, H, W, C), or (B, N, C) -> (B, N, C) with `visible`
    Source:
        ConvNeXt V2, figure 5; reference models/convnextv2.py, Block.
    """

    def __init__(self, dim, drop_path=0.0, remat=False, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.drop_path = drop_path
        self.remat = remat
        self.seed = seed
        policy = self.dtype_policy
        self.depthwise = DepthwiseConv2D(7, dtype=policy, name="depthwise")
        self.norm = LayerNorm(dtype=policy, name="norm")
        self.expand = Pointwise(EXPANSION * dim, dtype=policy, name="expand")
        self.grn = GRN(activation="gelu", dtype=policy, name="grn")
        self.project = Pointwise(dim, dtype=policy, name="project")
        self.drop = DropPath(drop_path, seed=seed, dtype=policy, name="drop_path")

    def build(self, input_shape):
        if input_shape[-1] != self.dim:
            raise ValueError(f"the block has dim={self.dim}, so its input must too. Received: {tuple(input_shape)}.")
        narrow, wide = (None, None, None, self.dim), (None, None, None, EXPANSION * self.dim)
        for layer in (self.depthwise, self.norm, self.expand):
            layer.build(narrow)
        for layer in (self.grn, self.project):
            layer.build(wide)

    def call(self, inputs, visible=None, training=None):
        if self.remat and training:
            y = self._branch_recomputed(inputs, visible)
        else:
            y = self._branch(inputs, visible)
        return inputs + self.drop.call(y, training=training)

    def _branch(self, x, visible, run=operator.attrgetter("call")):
        # Layers are run by `call`: Keras' own way into one costs 0.15 ms, more than some compute. The block's has cast
        # the input and casts the variables; hooks on these layers do not fire.
        layers = (self.depthwise, self.norm, self.expand, self.grn, self.project)
        depthwise, norm, expand, grn, project = map(run, layers)
        x = depthwise(x) if visible is None else visible.through(depthwise, x)
        x = expand(norm(x))
        x = grn(x, visible=None if visible is None else visible.mask_of(x))
        return project(x)

    def _branch_recomputed(self, x, visible):
        # The weights are arguments: TensorFlow gives no gradient to what a recomputed function merely closes over.
        variables = self.trainable_variables

        def branch(x, *values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                # Layers by themselves: in the backward pass nothing of the block's call is left to cast for them.
                return self._branch(x, visible, run=lambda layer: layer)

        return keras.remat(branch)(x, *(kernels.tensor_of(v) for v in variables))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"dim": self.dim, "drop_path": self.drop_path, "remat": self.remat, "seed": self.seed}
        return {**super().get_config(), **own}
