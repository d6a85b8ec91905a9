"""Batches for training and for evaluation: a tf.data pipeline under every backend.

Sample i since the start of training has the seed (seed, i), and each purpose folds its own number into that. So a batch
is a function of its step: it does not depend on where a run was resumed, on the number of workers, or on the backend.
"""

import functools
import re

import keras
import numpy as np
import tensorflow as tf

from training.data import masks
from training.data.augmentation import CROPS, PADDING, Augmentation, fit, fold_in
from training.data.decode import Encoded, UnreadableImage, as_array
from training.data.order import epoch_and_position, epoch_order, sample_range
from training.data.picture_source import PictureSource, StreamSource

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads here, and would take all of the memory

SHUFFLE_WINDOW = 4096  # records of a stream, still encoded
_MASK, _ORDER = 2, 3  # folded into a seed; a new purpose gets a new number, and augmentation has the first two


def training_batches(
    source,
    *,
    batch_size,
    image_size,
    seed,
    first_step,
    steps,
    crop="random_resized",
    crop_scale=(0.2, 1.0),
    flip=True,
    mask=None,
    workers=None,
):
    """Batches of the steps first_step .. first_step + steps - 1, the same ones whatever the first step is.

    Args:
        source: from `open_source`.
        image_size: (height, width).
        crop: `random_resized` (area within `crop_scale`), `padded` (4 mirrored pixels around, for small pictures) or
            `none` (fitted to the size).
        mask: (patch size, mask ratio) to draw a mask for each sample, or None.
        workers: pictures prepared at the same time; None leaves it to tf.data.
    Returns:
        A tf.data.Dataset of dicts: `images` float32 (B, h, w, C) 0..255, `labels` int32 (B,) if the source has labels,
        `visible` int32 (B, K) sorted, if there is a mask.
    """
    _check(batch_size, image_size, crop, crop_scale)
    if seed < 0 or first_step < 0 or steps < 1:
        raise ValueError(
            f"seed and first_step must be at least 0, steps at least 1. "
            f"Received: seed={seed!r}, first_step={first_step!r}, steps={steps!r}"
        )
    counts = masks.patch_counts(image_size, *mask) if mask else None
    augmentation = Augmentation(tuple(image_size), crop, tuple(crop_scale), flip)

    def prepare(sample, *record):
        sample_seed = tf.stack([tf.constant(seed, tf.int64), sample])
        example = load(sample, *record, *augmentation.draw(sample_seed))
        if counts:
            example["visible"] = masks.random_visible(fold_in(sample_seed, _MASK), *counts)
        return example

    first, last = sample_range(first_step, steps, batch_size)
    samples = tf.data.Dataset.range(first, last)
    if isinstance(source, StreamSource):
        samples = tf.data.Dataset.zip(samples, _shuffled_records(source, seed, first))
        load = _graph(source, _record_reader(source, augmentation.apply), image_size)
    else:
        load = _graph(source, _shuffled_reader(source, seed, augmentation.apply), image_size)
    batches = _parallel(samples, prepare, workers).batch(batch_size, drop_remainder=True)
    return batches.map(_to_float).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(source, *, batch_size, image_size, crop_fraction=0.875, workers=None):
    """Every picture of the source once, in its order; the last batch is filled up with pictures of weight 0.

    Args:
        crop_fraction: the part of the resized picture that the centre crop keeps; None squashes the picture to the
            size. A picture that has the size already is taken as it is.
    Returns:
        A tf.data.Dataset of dicts: `images` float32 (B, h, w, C) 0..255, `labels` int32 (B,) if the source has labels,
        `weight` float32 (B,), 1 or 0. Its iteration stops at an unreadable picture; `as_numpy` and `iterate` name it in
        one line.
    """
    _check(batch_size, image_size, "none", (1, 1))
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must be in (0, 1], or None for no crop. Received: {crop_fraction!r}")

    def apply(picture):
        return as_array(fit(picture, tuple(image_size), crop_fraction))

    def prepare(sample, *record):
        return {**load(sample, *record), "weight": tf.constant(1.0)}

    def fill_up(batch):
        missing = batch_size - tf.shape(batch["weight"])[0]
        full = {key: tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)) for key, value in batch.items()}
        return {key: tf.ensure_shape(value, [batch_size, *value.shape[1:]]) for key, value in full.items()}

    samples = tf.data.Dataset.range(source.count)
    if isinstance(source, StreamSource):
        samples = tf.data.Dataset.zip(samples, source.records)
        load = _graph(source, _record_reader(source, apply), image_size)
    else:
        load = _graph(source, lambda index: (index, apply(source.opened(int(index)))), image_size)
    batches = _parallel(samples, prepare, workers).batch(batch_size).map(fill_up)
    return batches.map(_to_float).prefetch(tf.data.AUTOTUNE)


def iterate(dataset):
    """The batches of a dataset; an unreadable picture raises UnreadableImage, whose text is one line."""
    try:
        yield from dataset
    except tf.errors.OpError as error:
        named = re.search(rf"{UnreadableImage.__name__}: (.*)", error.message)
        if named is None:
            raise
        raise UnreadableImage(named[1]) from None


def as_numpy(dataset):
    """The batches of a dataset as dicts of numpy arrays, for JAX and PyTorch.

    The arrays are the caller's own: PyTorch would not take TensorFlow's, which are read-only, without a warning.
    """
    for batch in iterate(dataset):
        yield {key: value.numpy() for key, value in batch.items()}


def _check(batch_size, image_size, crop, crop_scale):
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size!r}")
    if np.size(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size must be (height, width), both at least 1. Received: {image_size!r}")
    if crop not in CROPS:
        raise ValueError(f"crop must be one of {', '.join(CROPS)}. Received: {crop!r}")
    if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise ValueError(f"crop_scale must be (smallest, largest) part, within (0, 1]. Received: {crop_scale!r}")
    if crop == "padded" and min(image_size) <= PADDING:
        raise ValueError(f"a padded crop mirrors {PADDING} pixels of larger sides. Received: {image_size!r}")


def _parallel(samples, prepare, workers):
    return samples.map(prepare, num_parallel_calls=workers or tf.data.AUTOTUNE, deterministic=True)


def _to_float(batch):
    """Eight bits until there is a batch: a quarter of the bytes to copy."""
    return {**batch, "images": tf.cast(batch["images"], tf.float32)}


def _shuffled_reader(source, seed, apply):
    """A reader of sample i: the picture at its position of its epoch's order, or the next readable one."""
    order = functools.lru_cache(maxsize=3)(functools.partial(epoch_order, source.count, seed))  # at most two in use

    def read(sample, *numbers):
        epoch, position = epoch_and_position(int(sample), source.count)
        return source.readable_picture(order(epoch), position, lambda picture: apply(picture, *numbers))

    return read


def _record_reader(source, apply):
    def read(sample, encoded, label, *numbers):
        name = f"number {sample % source.count} of {source.name}"
        return label, apply(Encoded(encoded, source.channels, name), *numbers)

    return read


def _graph(source, read, image_size):
    """`read` as a graph function of whatever tensors it takes, {"images": uint8, "labels"}.

    `read` returns the index of a picture, or the label of a record, and the pixels. It is Python: Pillow works outside
    of Python's lock, and a graph cannot catch a damaged file.
    """
    labels = source.labels if isinstance(source, PictureSource) else None

    def python(*values):
        index, pixels = read(*values)
        return pixels, np.int32(index if labels is None else labels[index])

    def graph(*values):
        image, label = tf.numpy_function(python, tf.nest.flatten(values), (tf.uint8, tf.int32))
        example = {"images": tf.ensure_shape(image, [*image_size, source.channels])}
        return {**example, "labels": tf.ensure_shape(label, [])} if source.labelled else example

    return graph


def _shuffled_records(source, seed, first):
    """The records from sample `first` on, every epoch shuffled in windows whose borders differ from epoch to epoch.

    Dataset.shuffle would depend on TensorFlow's global seed too; with (seed, epoch) alone, resuming is skipping.
    """
    first_epoch, position = epoch_and_position(first, source.count)

    def epoch_records(epoch):
        epoch_seed = fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), _ORDER)

        def shuffled(window, encoded, labels):
            window_seed = fold_in(epoch_seed, window)
            order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(labels)), window_seed, alg="philox")
            return tf.gather(encoded, order), tf.gather(labels, order)

        border = tf.random.stateless_uniform([], epoch_seed, 1, SHUFFLE_WINDOW + 1, tf.int64, alg="philox")
        head, tail = source.records.take(border), source.records.skip(border)
        windows = head.batch(SHUFFLE_WINDOW).concatenate(tail.batch(SHUFFLE_WINDOW)).enumerate()
        records = windows.map(lambda window, records: shuffled(window, *records)).prefetch(1).unbatch()
        return records.skip(tf.where(epoch == first_epoch, tf.constant(position, tf.int64), 0))

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_records)
