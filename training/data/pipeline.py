"""Batches for training and for evaluation by grain, as dicts of numpy arrays for every backend.

Sample i since the start of training is number i % N in the order of epoch i // N, and all that is random about it comes
from one generator of (seed, i). So a batch is a function of its step: it does not depend on where a run was resumed, on
the number of workers, or on the backend.
"""

import concurrent.futures
import itertools
import os

import grain
import numpy as np
from absl import flags

from training.data.augmentation import evaluation_picture
from training.data.picture_source import StreamSource

SAMPLE, MIX = 0, 1  # what a generator is for


def training_batches(source, example, *, batch_size, seed, first_step, steps, mix=None, workers=None, processes=0):
    """Batches of the steps first_step .. first_step + steps - 1, the same ones whatever the first step is.

    Args:
        source: from `open_source`.
        example: (rng, picture, target) -> dict of arrays; `picture` is `Pixels` or `Encoded`, `target` its label or
            None. It draws from rng in a fixed order. See `training.data.examples`.
        mix: (rng of the step, batch) -> batch, or None.
        workers: threads that prepare pictures; None: one a core.
        processes: worker processes in their place, for programs in which Python's lock is short; 0: threads.
    Returns:
        An iterator of dicts of arrays (B, ...): those of `example`, and `substituted` bool (B,), which is true for a
        sample whose picture could not be read and was replaced by another one.
    Raises:
        UnreadableImage: no picture can be read, or one of a stream.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size!r}")
    if seed < 0 or first_step < 0 or steps < 1:
        raise ValueError(
            f"seed and first_step must be at least 0, steps at least 1. "
            f"Received: seed={seed!r}, first_step={first_step!r}, steps={steps!r}"
        )

    def prepared(sample, index):
        return source.readable(index, lambda *opened: example(np.random.default_rng([seed, SAMPLE, sample]), *opened))

    def mixed(step, batch):
        return batch if mix is None else mix(np.random.default_rng([seed, MIX, step]), batch)

    if isinstance(source, StreamSource):

        def of_record(sample, picture, label):
            rows = example(np.random.default_rng([seed, SAMPLE, sample]), picture, label)
            return {**rows, "substituted": np.bool_(False)}

        rows = _threaded(of_record, source.shuffled(seed, first_step * batch_size), workers)
        return (mixed(step, _stacked(rows, batch_size)) for step in range(first_step, first_step + steps))
    samples = grain.MapDataset.source(range(source.count)).seed(seed).shuffle().repeat().map_with_index(prepared)
    batches = samples.batch(batch_size).map_with_index(mixed)
    return _read(batches[first_step : first_step + steps], workers, processes)


def evaluation_batches(source, *, batch_size, image_size, crop_fraction=0.875, workers=None):
    """Every picture of the source once, in its order; the last batch is filled up with pictures of weight 0.

    Args:
        crop_fraction: the part of the resized picture that the centre crop keeps; None squashes the picture to the
            size. A picture that has the size already is taken as it is.
    Returns:
        An iterator of dicts: `images` uint8 (B, h, w, C), `labels` int32 (B,) if the source has labels, `weight`
        float32 (B,), 1 or 0.
    Raises:
        UnreadableImage: at the first picture that cannot be read.
    """
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must be in (0, 1], or None for no crop. Received: {crop_fraction!r}")

    def prepared(picture, label):
        labels = {} if label is None else {"labels": np.int32(label)}
        images = evaluation_picture(picture, tuple(image_size), crop_fraction)
        return {"images": images, **labels, "weight": np.float32(1)}

    def filled_up(batch):
        missing = batch_size - len(batch["weight"])
        return {key: np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) for key, rows in batch.items()}

    if isinstance(source, StreamSource):
        rows = _threaded(prepared, source.in_order(), workers)
        return (filled_up(_stacked(rows, batch_size)) for _ in range(-(-source.count // batch_size)))
    samples = grain.MapDataset.source(range(source.count)).map(lambda index: prepared(*source.opened(index)))
    return _read(samples.batch(batch_size).map(filled_up), workers)


def _read(batches, workers, processes=0):
    """The batches of a MapDataset, each prepared by one worker while those before it are used."""
    threads = 1 if processes else workers or os.cpu_count()
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if processes:
        if not flags.FLAGS.is_parsed():  # grain asks for its own, which only programs have read
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes))
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()


def _threaded(function, rows, workers):
    """`function` of each row of an iterator, in its order, by some threads that run a little ahead."""
    threads = workers or os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(function, *row) for row in itertools.islice(rows, 4 * threads)]
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(function, *row) for row in itertools.islice(rows, 1)]


def _stacked(rows, count):
    """The next rows of an iterator as one batch."""
    some = list(itertools.islice(rows, count))
    return {key: np.stack([row[key] for row in some]) for key in some[0]}
