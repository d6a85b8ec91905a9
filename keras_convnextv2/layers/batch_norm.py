import math

import keras
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import plain


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class BatchNorm(keras.layers.Layer):
    """Batch normalisation as torch has it: `gamma * (x - mean) / sqrt(variance + epsilon) + beta` for each channel.

    In training mean and variance are those of the batch, and the moving ones go `momentum` of the way to them; there
    the variance is the unbiased one, in which Keras' own layer differs. A frozen layer keeps to the moving ones.
    Statistics are computed in float32 at least. On replicas of TensorFlow the moving ones are averages over them.

    Args:
        momentum: torch's: the share of the new batch, where Keras counts that of the old ones.
        synchronized: of the batch of all replicas of TensorFlow, which are then not compiled by XLA. A choice of the
            machine that trains, so it is not kept in the config.
    Shapes:
        (..., C) -> (..., C)
    Source:
        torch.nn.BatchNorm2d and SyncBatchNorm.
    """

    def __init__(self, momentum=0.1, epsilon=1e-5, synchronized=False, **kwargs):
        super().__init__(**kwargs)
        self.momentum = plain(momentum)
        self.epsilon = plain(epsilon)
        self.synchronized = synchronized
        self.autocast = False  # a float32 input keeps its digits until the statistics are made

    def build(self, input_shape):
        as_given = {"shape": (input_shape[-1],), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **as_given)
        self.beta = self.add_weight(name="beta", initializer="zeros", **as_given)
        moving = {**as_given, "trainable": False, "aggregation": "mean"}  # else each replica would keep its own
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **moving)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **moving)

    def call(self, inputs, training=None):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        if training and self.trainable:
            mean, variance = self._of_the_batch(x)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(x * scale + (self.beta - mean * scale), self.compute_dtype)

    def _of_the_batch(self, x):
        total = kernels.sum_over_replicas if self.synchronized else ops.convert_to_tensor
        axes = tuple(range(len(x.shape) - 1))
        count = total(ops.cast(math.prod(ops.shape(x)[axis] for axis in axes), x.dtype))
        mean = total(ops.sum(x, axes)) / count
        variance = total(ops.sum(ops.square(x - mean), axes)) / count
        unbiased = variance * count / ops.maximum(count - 1, 1)
        momentum = self.momentum * ops.cast(count > 1, "float32")  # one value has no variance: nothing is learnt of it
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign(moving + momentum * (ops.cast(new, moving.dtype) - moving))
        return mean, variance

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
