"""A wall for XLA's fusion."""

from keras import ops


def behind_wall(function, like, *tensors):
    """`function(*tensors)` as a program of its own, which XLA fuses with nothing before or behind it.

    XLA on a CPU fuses a wide sum into every reduction that reads it and computes it anew for each. Optimisation
    barriers are gone before that backend fuses; a branch stays. Unlike a loop's body it also runs on all cores.

    Args:
        function: from tensors to one tensor, or a tuple of them.
        like: a tensor, or a tuple of them, with the shapes and types of the result.
        tensors: its arguments; the first one is asked.
    """
    # True whatever the number is, NaN and infinity too, and the compiler cannot know: a choice that turned on a value
    # would let one picture decide over its whole batch.
    # Not a choice by number (`ops.switch`): TensorFlow's XLA then evaluates the network while it compiles, for minutes.
    first = ops.reshape(tensors[0], (-1,))[0]
    several = isinstance(like, tuple)

    def nothing():
        empty = tuple(ops.zeros_like(x) for x in (like if several else (like,)))
        return empty if several else empty[0]

    always = ops.logical_not(ops.square(first) < -1)
    return ops.cond(always, lambda: function(*tensors), nothing)
