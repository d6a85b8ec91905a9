import keras


def tensor_of(variable):
    """A variable's present tensor, cast as the layer that asks computes.

    On TensorFlow it must be read first: a custom gradient that is given a variable counts its gradient twice.
    """
    value = variable.value
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(value)
    return value
