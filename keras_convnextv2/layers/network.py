"""A network inside a Keras model: its layers and variables by their public names.

Layers of a network that is built on somebody else's tensor carry its name in front, so that two can share an input, and
`v.path` follows. Public names never do: tables of weights, decay rules and tools ask here.
"""

import keras

from keras_convnextv2.layers.stage import Stage
from keras_convnextv2.layers.stem import Stem

SINGLE = ("preprocessing", "stem", "pool", "norm", "head", "predictions")


def network_of(model):
    """The functional model that an FCMAE or a segmenter holds, or the model itself."""
    return getattr(model, "backbone", model)


def network_layers(model):
    """{public name: layer} of the one network in a model: `stem`, `stage_0`, `head`, and `norm_0` ... of a pyramid.

    Other layers, in front of the network or behind it, are left out.

    Raises:
        ValueError: no network, or several.
    """
    layers = getattr(network_of(model), "layers", ())
    stems = [layer for layer in layers if isinstance(layer, Stem)]
    if len(stems) != 1:
        raise ValueError(
            f"a model with one network is needed, made by ConvNeXtV2. Received: {getattr(model, 'name', model)!r}, "
            f"with {len(stems)} of them."
        )
    prefix = prefix_of(stems[0])
    named = {layer.name.removeprefix(prefix): layer for layer in layers if layer.name.startswith(prefix)}
    norms = {f"norm_{s}" for s in range(sum(isinstance(layer, Stage) for layer in layers))}
    return {name: x for name, x in named.items() if name in SINGLE or isinstance(x, Stage) or name in norms}


def prefix_of(stem):
    """What stands before the names of a network's layers: "" or its name and an underscore."""
    return stem.name.removesuffix("stem")


def variables_of(model):
    """{public path: variable}, such as "stage_2/block_5/grn/gamma"; of an FCMAE also "decoder/..."."""
    found = network_layers(model) | {layer.name: layer for layer in getattr(model, "heads", ())}
    return {
        f"{name}/{v.path.split(f'{layer.name}/', 1)[-1]}": v for name, layer in found.items() for v in layer.weights
    }


def stages_of(model):
    """The `Stage` layers of a model made by `ConvNeXtV2`, or of an FCMAE."""
    return [layer for layer in network_layers(model).values() if isinstance(layer, Stage)]


def levels_of(model):
    """{"P2": stage, ..., "P5": stage}: Pn has stride 2**n behind a stem patch of 4; others count from P2 too."""
    return {f"P{s}": stage for s, stage in enumerate(stages_of(model), start=2)}


def total_stride(model):
    """Pixels of the picture between two positions of the last map."""
    return network_layers(model)["stem"].patch_size * 2 ** (len(stages_of(model)) - 1)


def preprocessing_of(model):
    """The `Preprocessing` layer of a model's network, None where it takes pictures that are normalised."""
    return network_layers(model).get("preprocessing")


def entry(model):
    """The tensor that enters the network: its input, or what layers in front of it make of theirs."""
    return _first(model).input


def layers_in_front(model):
    """The layers between a model's inputs and its network, apart from the inputs themselves."""
    layers = network_of(model).layers
    return [x for x in layers[: layers.index(_first(model))] if not isinstance(x, keras.layers.InputLayer)]


def _first(model):
    return preprocessing_of(model) or network_layers(model)["stem"]
