"""Fast formulations of the network's operations, and the table that picks one. Knows tensors only.

Every operation has a plain form in `keras.ops` that defines it; the other forms give the same numbers faster somewhere.
"""

from keras_convnextv2.kernels.convolution import depthwise, patch_conv, patch_conv_transpose, same_conv
from keras_convnextv2.kernels.gather import keep_patches, put_patches_back
from keras_convnextv2.kernels.norm import gelu_grn, grn, layer_norm
from keras_convnextv2.kernels.pointwise import pointwise
from keras_convnextv2.kernels.replicas import share_of_replica, sum_over_replicas
from keras_convnextv2.kernels.table import FORM_VARIABLE, plain_operations
from keras_convnextv2.kernels.values import at_least, is_known, tensor_of

__all__ = [
    "FORM_VARIABLE",
    "at_least",
    "depthwise",
    "gelu_grn",
    "grn",
    "is_known",
    "keep_patches",
    "layer_norm",
    "patch_conv",
    "patch_conv_transpose",
    "plain_operations",
    "pointwise",
    "put_patches_back",
    "same_conv",
    "share_of_replica",
    "sum_over_replicas",
    "tensor_of",
]
