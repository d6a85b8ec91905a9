import keras

from keras_convnextv2.kernels.table import transforming


def at_least(x, smallest, message):
    """`x` (B, H, W, C), with a check of its sides when it runs where TensorFlow does not know them before."""
    if keras.backend.backend() != "tensorflow" or None not in x.shape[1:3]:
        return x
    import tensorflow as tf

    sides = tf.shape(x)[1:3]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(sides >= smallest), [message, sides])]):
        # Not the identity: TensorFlow would infer sizes behind it, and fail on them before this is run.
        return tf.raw_ops.PlaceholderWithDefault(input=x, shape=x.shape)


def tensor_of(variable):
    """A variable's present tensor, cast as the layer that asks computes; what is a tensor already stays as it is.

    On TensorFlow it must be read first: a custom gradient that is given a variable counts its gradient twice.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(value)
    return value


def is_known(x):
    """Whether a tensor's values can be read where this is called: not where a function is traced or compiled."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly()
    if backend == "jax":
        import jax

        return not isinstance(x, jax.core.Tracer)
    if backend == "torch":
        import torch

        return not (transforming() or torch.compiler.is_compiling())
    return True
