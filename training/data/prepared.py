"""`tfds:NAME`: a data set of tensorflow-datasets that is prepared on this machine, or, where that is asked for, is now.

One that was prepared with file_format="array_record" is read at random, without TensorFlow; others are streamed.
"""

import difflib
import functools
import zlib

import numpy as np

from training.data.decode import Encoded
from training.data.picture_source import MEMORY_LIMIT, PictureSource, StreamSource, fit_in_memory
from training.data.records import Shards

AT_RANDOM = "array_record"
ELSEWHERE = "huggingface:"
_SPLITS = {  # of ours, theirs: the first one that is there
    "train": ("train",),
    "unlabelled": ("unlabelled", "unsupervised", "train"),
    "test": ("test", "validation"),
}


def open_prepared(name, split, channels, keep=None, download=False):
    """The pictures of one split. Sets in other formats are read whole where they fit in memory, else streamed.

    Args:
        download: download and prepare the set where it is not prepared, for reading at random.
    """
    tfds = _library()
    builder = _builder(tfds, name)
    if download and not builder.is_prepared():
        builder = _prepare(tfds, name)
    keys = _keys(tfds, builder, name, split != "unlabelled")
    theirs = _split(builder, split)
    records = _records(tfds, builder, name, theirs, *keys)
    if split == "test" and theirs == "test" and next(iter(records))[1] < 0:
        theirs = "validation"  # the test set of a competition is published without labels
        records = _records(tfds, builder, name, theirs, *keys)
    labelled, title = split != "unlabelled", f"tfds:{name} ({split})"
    classes = tuple(builder.info.features[keys[1]].names) if labelled else ()
    prepared = f"{builder.info.full_name} {theirs} {builder.info.file_format.value}"  # its order is that of the files
    contents = functools.partial(zlib.crc32, prepared.encode())
    kinds = {"channels": channels, "classes": classes, "labelled": labelled, "contents": contents}
    small = _bytes(builder, theirs, keys[0], len(records)) <= MEMORY_LIMIT
    if isinstance(records, _Stream) and not small:
        return StreamSource(title, records.begin, len(records), **kinds)
    held = list(records) if isinstance(records, _Stream) else records
    labels = np.array([label for _, label in held], "int32") if labelled and small else None

    def read(index):
        encoded, label = held[index]
        return Encoded(encoded, channels, f"number {index} of {title}"), np.int32(label) if labelled else None

    if keep is None:
        keep = small and fit_in_memory(lambda index: read(index)[0], len(records), channels)
    return PictureSource(title, read, len(records), labels=labels, keep=keep, **kinds)


class _Stream:
    """(encoded picture, label) of the records of a tf.data.Dataset, one after the other."""

    def __init__(self, records):
        self._records = records

    def __len__(self):
        return int(self._records.cardinality())

    def __iter__(self):
        return self.begin(0)

    def begin(self, first):
        return self._records.skip(first).as_numpy_iterator()


class _AtRandom:
    """(encoded picture, label) of the records of ArrayRecord files, in any order."""

    def __init__(self, shards, features, image_key, label_key, decoders):
        self._shards, self._features, self._decoders = shards, features, decoders
        self._image_key, self._label_key = image_key, label_key

    def __len__(self):
        return len(self._shards)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        record = self._features.deserialize_example_np(self._shards[index], decoders=self._decoders)
        return record[self._image_key], record[self._label_key] if self._label_key else -1


def _library():
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tfds:NAME needs tensorflow-datasets: pip install tensorflow-datasets") from error
    return tensorflow_datasets


def _require_tensorflow():
    import keras

    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"tfds:NAME reads through TensorFlow what was not prepared as {AT_RANDOM}: pip install tensorflow"
        ) from error
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads here, and would take all of the memory


def _builder(tfds, name):
    rule = "tfds:NAME must name a data set of tensorflow-datasets"
    if name.startswith(ELSEWHERE):  # looked for on the network, again and again
        raise ValueError(f"{rule} itself. Received: {name!r}. Take its pictures by folder:PATH")
    try:
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:  # its own text lists hundreds of names
        near = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        hint = f"Closest: {', '.join(near)}" if near else "tensorflow_datasets.list_builders() has the names"
        raise ValueError(f"{rule}. Received: {name!r}. {hint}") from error
    except Exception as error:  # of the parser of names, of versions and configs that are not there, of the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{rule}, NAME[/CONFIG][:VERSION]. Received: {name!r}: {reason}") from error


def _prepare(tfds, name):
    _require_tensorflow()  # which writes the files
    builder = tfds.builder(name, file_format=AT_RANDOM)
    try:
        builder.download_and_prepare()
    except Exception as error:  # of the network, of the disk, of a set that has to be fetched by hand
        reason = " ".join(str(error).split())
        raise OSError(f"tfds:{name} could not be downloaded and prepared: {reason}") from error
    return builder


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
    """Those of a split, in the order of the files."""
    decoders = {image_key: tfds.decode.SkipDecoding()}
    if split in builder.info.splits and builder.info.file_format.value == AT_RANDOM:
        files = builder.info.splits[split].file_instructions
        shards = Shards([str(file.filename) for file in files], [file.take for file in files])
        keys = (image_key, label_key) if label_key else (image_key,)
        features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})
        return _AtRandom(shards, features, image_key, label_key, decoders)
    _require_tensorflow()
    try:
        records = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders)
    except (AssertionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"tfds:{name} must have been prepared, and {builder.data_dir} does not hold it. "
            f'--set download=true prepares it, and so does: python -c "import tensorflow_datasets as tfds; '
            f'tfds.builder({name!r}, file_format={AT_RANDOM!r}).download_and_prepare()"'
        ) from error
    return _Stream(records.map(lambda record: (record[image_key], record[label_key] if label_key else -1)))


def _bytes(builder, split, image_key, count):
    """Of all encoded pictures: as recorded, else at most that of the decoded ones, where their size is fixed."""
    if split in builder.info.splits:
        return builder.info.splits[split].num_bytes
    shape = builder.info.features[image_key].shape
    return MEMORY_LIMIT + 1 if None in shape else count * int(np.prod(shape))
