"""Is a model what a file holds? By its bits, and by what the library of the file answers."""

import keras
import numpy as np

from keras_convnextv2.convert.libraries import answers
from keras_convnextv2.layers.network import network_layers, network_of, stages_of, total_stride, variables_of
from keras_convnextv2.weights.matching import pair_up
from keras_convnextv2.weights.rows import CONVERSIONS

# Who reads a layout; nobody outside reads mmpretrain's here, the pre-training script's and Keras'. timm knows the
# authors' names too.
LIBRARIES = {
    "timm": "timm",
    "timm conv": "timm",
    "official": "timm",
    "official FCMAE": "timm",
    "huggingface": "transformers",
    "huggingface model": "transformers",
}
# For each value, per unit of the largest of its kind; the smallest real mistake, another epsilon, shows as 3.4e-5.
TOLERANCE = 2e-5


def compare_bits(model, found):
    """Compare every array of an open file, as `open_recognised` yields it, with its variable.

    Returns:
        (a line that says what was compared, whether all are equal)
    """
    variables, arrays = variables_of(model), found.arrays
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    pairing = pair_up(found.table, arrays.shapes, shapes, where=found.where)
    wrong = []
    for pair in pairing.pairs:
        value = keras.ops.convert_to_numpy(variables[pair.ours]).astype("float32")
        if not np.array_equal(CONVERSIONS[pair.conversion].forward(arrays.read(pair.theirs)), value):
            wrong.append(pair.theirs)
    line = f"{len(pairing.pairs) - len(wrong)} of {len(pairing.pairs)} arrays equal the model's bit for bit"
    if wrong:
        line += f"; different: {', '.join(wrong[:3])}"
    if pairing.untouched:
        line += f"; without {len(pairing.untouched)} of the model's variables: {next(iter(pairing.untouched.values()))}"
    return line, not wrong


def compare_answers(model, layout, place, ema=False):
    """Compare the model's last map, and its logits, with those of the library that reads the file, on random images.

    Args:
        model: of `ConvNeXtV2`, or an `FCMAE`, whose encoder is then compared.
        layout: the name of the file's layout.
        place: the file, or the folder with its config.
    Returns:
        (a line that says what was compared or why not, whether it agrees; None where nothing was compared)
    """
    library = LIBRARIES.get(layout)
    if library is None:
        return f"answers not compared: no other library reads {layout!r} files", None
    network = network_of(model)
    last = stages_of(network)[-1]
    if last.compute_dtype != "float32":
        return f"answers not compared: the model computes in {last.compute_dtype}", None
    stride = total_stride(network)
    height, width = (side or 2 * stride for side in network.input_shape[1:3])
    images = np.random.default_rng(0).normal(size=(1, height, width, network.input_shape[3])).astype("float32")
    try:
        theirs = answers(library, place, images, ema)
    except ImportError as error:
        return f"answers not compared: {error}", None
    except RuntimeError as error:
        return f"answers not compared: {error}", False
    ours = _answers(network, last, images)
    names = sorted(ours.keys() & theirs.keys())
    worst = {name: np.abs(ours[name] - theirs[name]).max() / max(1, np.abs(ours[name]).max()) for name in names}
    agree = all(bool(value <= TOLERANCE) for value in worst.values())  # False for NaN
    said = " and ".join(f"{name} within {value:.1e}" for name, value in worst.items())
    return f"{library} answers {'alike' if agree else 'something else'}: {said} (at most {TOLERANCE:.0e})", agree


def _answers(network, last, images):
    outputs, layers = {"features": last.output}, network_layers(network)
    if "head" in layers:
        outputs["logits"] = layers["head"].output
    # from the stem on: libraries take images that are already normalised
    return keras.Model(layers["stem"].input, outputs).predict_on_batch(images)
