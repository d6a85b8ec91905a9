import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.depthwise import DepthwiseConv2D
from keras_convnextv2.layers.drop_path import DropPath
from keras_convnextv2.layers.grn import GeluGRN
from keras_convnextv2.layers.norm import LayerNorm
from keras_convnextv2.layers.pointwise import Pointwise

EXPANSION = 4


def quickly(layer):
    """What runs a part of a block: its `call` where that is all there is to do, else the layer.

    Keras' own way into a layer costs 0.15 ms, more than some compute. The block's has cast the input and casts the
    variables. A quantized layer has another formula, and torch fires hooks on its way in.
    """
    hooked = getattr(layer, "_forward_hooks", None) or getattr(layer, "_forward_pre_hooks", None)
    hooked = hooked or getattr(layer, "_backward_hooks", None) or getattr(layer, "_backward_pre_hooks", None)
    return layer if hooked or layer.quantization_mode is not None else layer.call


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class ConvNeXtV2Block(Composite):
    """The residual block: depthwise 7x7, LayerNorm, expand to 4C, GELU and GRN, project to C, drop path, add.

    Called with a map, or with the rows of visible patches and their `Visible`: the same weights serve both.

    Args:
        dim: channels, in and out.
        drop_path: probability that a sample's branch is dropped in training.
        remat: recompute the branch in the backward pass instead of keeping its activations.
        seed: of the drop path.
    Shapes:
        (B, H, W, C) -> (B, H, W, C), or (B, N, C) -> (B, N, C) with `patches`
    Source:
        ConvNeXt V2, figure 5; reference models/convnextv2.py, Block.
    """

    def __init__(self, dim, drop_path=0.0, remat=False, seed=None, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.autocast = True  # the branch computes in one type, its parts are run by `call`
        self.dim = plain(dim)
        self.drop_path = plain(drop_path)
        self.remat = plain(remat)
        self.seed = plain(seed)
        policy = self.dtype_policy
        self.depthwise = DepthwiseConv2D(7, dtype=policy, name="depthwise")
        self.norm = LayerNorm(dtype=policy, name="norm")
        self.expand = Pointwise(EXPANSION * self.dim, dtype=policy, name="expand")
        self.grn = GeluGRN(dtype=policy, name="grn")
        self.project = Pointwise(self.dim, dtype=policy, name="project")
        self.drop = DropPath(self.drop_path, seed=self.seed, dtype=policy, name="drop_path")
        self.restore()

    def build(self, input_shape):
        if input_shape[-1] != self.dim:
            raise ValueError(f"the block has dim={self.dim}, so its input must too. Received: {tuple(input_shape)}.")
        narrow, wide = (None, None, None, self.dim), (None, None, None, EXPANSION * self.dim)
        for layer in (self.depthwise, self.norm, self.expand, self.drop):
            layer.build(narrow)
        for layer in (self.grn, self.project):
            layer.build(wide)

    def call(self, inputs, patches=None, training=None):
        if self.remat and training:
            y = self._branch_recomputed(inputs, patches)
        else:
            y = self._branch(inputs, patches)
        return inputs + quickly(self.drop)(y, training=training)

    def _branch(self, x, patches, quick=True):
        layers = (self.depthwise, self.norm, self.expand, self.grn, self.project)
        depthwise, norm, expand, grn, project = (quickly(layer) if quick else layer for layer in layers)
        x = depthwise(x) if patches is None else patches.through(depthwise, x)
        x = expand(norm(x))
        x = grn(x, mask=None if patches is None else patches.mask_of(x))
        return project(x)

    def _branch_recomputed(self, x, patches):
        # The weights are arguments: TensorFlow gives no gradient to what a recomputed function merely closes over.
        variables = self.trainable_variables

        def branch(x, *values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                # Layers by themselves: in the backward pass nothing of the block's call is left to cast for them.
                return self._branch(x, patches, quick=False)

        return keras.remat(branch)(x, *(kernels.tensor_of(v) for v in variables))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"dim": self.dim, "drop_path": self.drop_path, "remat": self.remat, "seed": self.seed}
        return {**super().get_config(), **own}
