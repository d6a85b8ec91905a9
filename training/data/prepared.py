"""`tfds:NAME`: a data set that tensorflow-datasets has prepared on this machine. Nothing is downloaded here."""

import difflib

import numpy as np

from training.data.decode import Encoded
from training.data.picture_source import MEMORY_LIMIT, PictureSource, StreamSource, fit_in_memory

_SPLITS = {  # of ours, theirs: the first one that is there
    "train": ("train",),
    "unlabelled": ("unlabelled", "unsupervised", "train"),
    "test": ("test", "validation"),
}


def open_prepared(name, split, channels, keep=None):
    """The pictures of one split. Sets whose encoded pictures fit in memory are read whole, larger ones are streamed."""
    tfds = _library()
    builder = _builder(tfds, name)
    image_key, label_key = _keys(tfds, builder, name, split != "unlabelled")
    theirs = _split(builder, split)
    records = _records(tfds, builder, name, theirs, image_key, label_key)
    if split == "test" and theirs == "test" and next(records.as_numpy_iterator())[1] < 0:
        theirs = "validation"  # the test set of a competition is published without labels
        records = _records(tfds, builder, name, theirs, image_key, label_key)
    count, title, labelled = int(records.cardinality()), f"tfds:{name} ({split})", split != "unlabelled"
    kinds = {"channels": channels, "classes": tuple(builder.info.features[label_key].names) if labelled else ()}
    if _bytes(builder, theirs, image_key, count) > MEMORY_LIMIT:
        return StreamSource(
            title, lambda first: records.skip(first).as_numpy_iterator(), count, labelled=labelled, **kinds
        )
    encoded, labels = zip(*records.as_numpy_iterator(), strict=True)
    read = lambda index: Encoded(encoded[index], channels, f"number {index} of {title}")  # noqa: E731
    keep = fit_in_memory(read, count, channels) if keep is None else keep
    return PictureSource(title, read, count, labels=labels if labelled else None, keep=keep, **kinds)


def _library():
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tfds:NAME needs tensorflow-datasets: pip install tensorflow-datasets") from error
    import keras

    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tfds:NAME reads through TensorFlow: pip install tensorflow") from error
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads here, and would take all of the memory
    return tensorflow_datasets


def _builder(tfds, name):
    try:
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:  # its own text lists hundreds of names
        near = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        hint = f"Closest: {', '.join(near)}" if near else "tensorflow_datasets.list_builders() has the names"
        raise ValueError(
            f"tfds:NAME must name a data set of tensorflow-datasets. Received: {name!r}. {hint}"
        ) from error


def _keys(tfds, builder, name, labelled):
    """The features that hold the picture and the label."""
    features = builder.info.features
    image = next((key for key in features if type(features[key]) is tfds.features.Image), None)
    label = next((key for key in features if isinstance(features[key], tfds.features.ClassLabel)), None)
    if image is None or (labelled and label is None):
        raise ValueError(f"tfds:{name} must have a picture and a class label. Received features: {', '.join(features)}")
    return image, label


def _split(builder, split):
    there = list(builder.info.splits)
    if not there:  # not prepared, which reading it reports
        return _SPLITS[split][0]
    found = next((name for name in _SPLITS[split] if name in there), None)
    if found is None:
        wanted = " or ".join(_SPLITS[split])
        raise ValueError(
            f"{split} pictures need a split {wanted}. Received: tfds:{builder.name}, which has {', '.join(there)}"
        )
    return found


def _records(tfds, builder, name, split, image_key, label_key):
    """A tf.data.Dataset of (encoded picture, label), in the order of the files."""
    try:
        records = builder.as_dataset(split=split, shuffle_files=False, decoders={image_key: tfds.decode.SkipDecoding()})
    except (AssertionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"tfds:{name} must have been prepared, and {builder.data_dir} does not hold it. This prepares it: "
            f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}).download_and_prepare()"'
        ) from error
    return records.map(lambda record: (record[image_key], record[label_key] if label_key else -1))


def _bytes(builder, split, image_key, count):
    """Of all encoded pictures: as recorded, else at most that of the decoded ones, where their size is fixed."""
    if split in builder.info.splits:
        return builder.info.splits[split].num_bytes
    shape = builder.info.features[image_key].shape
    return MEMORY_LIMIT + 1 if None in shape else count * int(np.prod(shape))
