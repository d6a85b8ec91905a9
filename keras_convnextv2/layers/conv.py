import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.initial import InitialNormal


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Conv2D(keras.layers.Conv2D):
    """Keras' convolution, by this package's formulations where it keeps the size (stride 1, odd kernel).

    Its name is Keras' too: in weight files Keras calls layers of a list by their class.
    """

    def convolution_op(self, inputs, kernel):
        height, width = self.kernel_size
        keeps = height == width and height % 2 and self.padding == "same" and self.data_format == "channels_last"
        if not keeps or self.groups > 1 or {*self.strides, *self.dilation_rate} != {1}:
            return super().convolution_op(inputs, kernel)
        return kernels.same_conv(inputs, kernels.tensor_of(kernel))


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class PatchConv2DTranspose(keras.layers.Conv2DTranspose):
    """Keras' transposed convolution, by this package's formulations where the stride is the kernel size."""

    def call(self, inputs):
        sides = {*self.kernel_size, *self.strides}
        if len(sides) > 1 or not self.use_bias or self.padding != "valid" or self.data_format != "channels_last":
            return super().call(inputs)
        outputs = kernels.patch_conv_transpose(inputs, *map(kernels.tensor_of, (self.kernel, self.bias)))
        return self.activation(outputs)


def convolution(dim, kernel_size, deviation, name, dtype, **options):
    """A convolution that keeps the size, in the layout and with the first weights of this package's heads."""
    return Conv2D(
        dim,
        kernel_size,
        padding="same",
        data_format="channels_last",
        kernel_initializer=InitialNormal(deviation),
        dtype=dtype,
        name=name,
        **options,
    )
