"""Batches for training and for evaluation by grain, as dicts of numpy arrays for every backend.

Sample i since the start of training is number i % N in the order of epoch i // N, and all that is random about it comes
from one generator of (seed, i). So a batch is a function of its step: it does not depend on where a run was resumed, on
the number of workers, or on the backend.
"""

import concurrent.futures
import itertools
import os
import signal

import grain
import numpy as np
from absl import flags

from training.data.augmentation import evaluation_picture
from training.data.picture_source import StreamSource
from training.data.purposes import MIX, ORDER, SAMPLE, generator


def training_batches(source, example, *, batch_size, seed, first_step, steps, mix=None, workers=None, processes=0):
    """Batches of the steps first_step .. first_step + steps - 1, the same ones whatever the first step is.

    Args:
        source: from `open_source`.
        example: (rng, picture, target) -> dict of arrays; `picture` is `Pixels` or `Encoded`, `target` its label or
            None. It draws from rng in a fixed order. See `training.data.examples`.
        mix: (rng of the step, batch) -> batch, or None.
        workers: threads that prepare pictures; None: one a core.
        processes: worker processes in their place, where the program itself keeps Python's lock busy; 0: threads.
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
    if isinstance(source, StreamSource) and processes:
        raise ValueError(f"worker_processes need pictures in any order. Received: {source.name}, which is a stream")
    rows = _samples(source, example, batch_size, seed, first_step, steps, workers, processes)
    batches = rows if processes else (_stacked(rows, batch_size) for _ in range(steps))
    return _ahead(_mixed(mix, seed, enumerate(batches, first_step)))


def _samples(source, example, batch_size, seed, first_step, steps, workers, processes):
    """The samples of these steps in their order, or with processes their batches."""

    def prepared(sample, *opened):
        return example(generator(seed, SAMPLE, sample), *opened)

    if isinstance(source, StreamSource):
        of_record = lambda *record: {**prepared(*record), "substituted": np.bool_(False)}  # noqa: E731
        return _threaded(of_record, source.shuffled(seed, first_step * batch_size), workers)

    def of_index(sample, index):
        return source.readable(index, lambda *opened: prepared(sample, *opened))

    order = int(generator(seed, ORDER).integers(2**31))  # grain adds the epoch to it
    samples = grain.MapDataset.source(range(source.count)).shuffle(seed=order).repeat().map_with_index(of_index)
    if processes:  # each prepares whole batches, so that these do not depend on how many there are
        return _read(samples.batch(batch_size)[first_step : first_step + steps], processes=processes)
    return _read(samples[first_step * batch_size : (first_step + steps) * batch_size], workers, batch_size)


def _mixed(mix, seed, numbered):
    for step, batch in numbered:
        substituted = batch.pop("substituted")
        batch = batch if mix is None else mix(generator(seed, MIX, step), batch)
        yield {**batch, "substituted": substituted}


def evaluation_batches(source, *, batch_size, image_size, crop_fraction, workers=None):
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
    else:
        samples = grain.MapDataset.source(range(source.count)).map(lambda index: prepared(*source.opened(index)))
        rows = _read(samples, workers, batch_size)
    return _ahead(filled_up(_stacked(rows, batch_size)) for _ in range(-(-source.count // batch_size)))


def _read(samples, workers=None, ahead=1, processes=0):
    """The elements of a MapDataset, prepared by workers while those before them are used."""
    threads = 1 if processes else _threads(workers)
    samples = samples.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads)))
    if processes:
        if not flags.FLAGS.is_parsed():  # grain asks for its own, which only programs have read
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=processes)
        samples = samples.mp_prefetch(options, worker_init_fn=_leave_signals_to_the_program)
    iterator = iter(samples)
    try:
        yield from iterator
    finally:
        iterator.close()


def _leave_signals_to_the_program(*_):
    """Ctrl-C reaches all processes of a terminal, but the program needs its batch to finish the step and save."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _threads(workers):
    """As many as asked for, else one for each core that this process may use."""
    return workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def _threaded(function, rows, workers):
    """`function` of each row of an iterator, in its order, by some threads that run a little ahead."""
    threads = _threads(workers)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(function, *row) for row in itertools.islice(rows, 4 * threads)]
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(function, *row) for row in itertools.islice(rows, 1)]


def _stacked(rows, count):
    """The next rows of an iterator as one batch."""
    some = list(itertools.islice(rows, count))
    return {key: np.stack([row[key] for row in some]) for key in some[0]}


def _ahead(batches, count=2):
    """The same batches, taken by a thread of its own while those before them are used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(next, batches, None) for _ in range(count)]
        while (batch := waiting.pop(0).result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
