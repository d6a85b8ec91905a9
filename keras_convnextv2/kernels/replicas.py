import keras


def sum_over_replicas(x):
    """The sum of a tensor over TensorFlow's replicas, with its gradient; where there is one, the tensor itself.

    JAX's batch is global already. A collective cannot stand inside of what XLA compiles.
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def share_of_replica(loss):
    """A replica's part of the loss in Keras' `fit` on TensorFlow, whose gradients are added over replicas."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    return loss / tf.distribute.get_strategy().num_replicas_in_sync
