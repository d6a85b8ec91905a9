"""Batches for training and for evaluation by grain, as dicts of numpy arrays for every backend.

Sample i since the start of training is at place i % N in the order of epoch i // N, and all that is random about it
comes from one generator of (seed, i). So a batch is a function of its step: it does not depend on where a run was
resumed, on the number of workers, or on the backend.
"""

import concurrent.futures
import functools
import itertools
import os
import signal

import grain
import numpy as np
from absl import flags
from grain.experimental import index_shuffle

from training.data.augmentation import evaluation_picture
from training.data.picture_source import StreamSource
from training.data.purposes import MIX, ORDER, SAMPLE, generator

WHOLE = (0, 1)  # the share of the only process
ROUNDS = 16  # of the cipher; with grain's own 4, neighbours correlate (docs/performance.md)


def training_batches(
    source, example, *, batch_size, seed, first_step, steps, mix=None, workers=None, processes=0, share=WHOLE
):
    """Batches of the steps first_step .. first_step + steps - 1, the same ones whatever the first step is.

    Args:
        source: from `open_source`.
        example: (rng, picture, target) -> dict of arrays; `picture` is `Pixels` or `Encoded`, `target` its label or
            None. It draws from rng in a fixed order. See `training.data.examples`.
        mix: (rng of the step, batch) -> batch, or None.
        workers: threads that prepare pictures; None: one a core.
        processes: worker processes in their place, where the program itself keeps Python's lock busy; 0: threads.
        share: (number of this process, count of processes that train together). Each yields its rows of every batch,
            one after the other, and reads no others; of a stream it reads all records and decodes its own. `mix` gets
            the same rng in all of them.
    Returns:
        An iterator of dicts of arrays (rows, ...): those of `example`, and `substituted` bool (rows,), which is true
        for a sample whose picture could not be read and was replaced by another one.
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
    rows = _Rows(batch_size, share)
    samples = _samples(source, example, rows, seed, first_step, steps, workers, processes)
    batches = samples if processes else (_stacked(samples, rows.count) for _ in range(steps))
    return _ahead(_mixed(mix, seed, enumerate(batches, first_step)))


class _Rows:
    """The rows of one process: `count` of every batch, one after the other."""

    def __init__(self, batch_size, share):
        number, processes = share
        if not 0 <= number < processes:
            raise ValueError(f"share must be (number, count of processes), numbers from 0. Received: {share!r}")
        if batch_size % processes:
            raise ValueError(f"{processes} processes must divide the batch. Received: batch_size={batch_size!r}")
        self.count, self._batch_size = batch_size // processes, batch_size
        self._first = number * self.count

    def sample(self, n):
        """The number, among the samples of all processes, of the n-th one here."""
        batch, row = divmod(n, self.count)
        return batch * self._batch_size + self._first + row

    def __contains__(self, sample):
        return self._first <= sample % self._batch_size < self._first + self.count


def _samples(source, example, rows, seed, first_step, steps, workers, processes):
    """The samples of these steps in their order, or with processes their batches."""

    def prepared(sample, *opened):
        return example(generator(seed, SAMPLE, sample), *opened)

    if isinstance(source, StreamSource):

        def of_record(sample, *record):
            return {**prepared(sample, *source.opened(*record)), "substituted": np.bool_(False)}

        records = source.shuffled(seed, rows.sample(first_step * rows.count))
        return _threaded(of_record, (record for record in records if record[0] in rows), workers)

    def of_number(n):
        sample = rows.sample(n)
        return source.readable(picture_of(sample, source.count, seed), lambda *opened: prepared(sample, *opened))

    own = grain.MapDataset.range(first_step * rows.count, (first_step + steps) * rows.count).map(of_number)
    if processes:  # each prepares whole batches, so that these do not depend on how many there are
        return _read(own.batch(rows.count), processes=processes)
    return _read(own, workers, rows.count)


def picture_of(sample, count, seed):
    """The number of a sample's picture: every epoch is a permutation of its own.

    It is a cipher of the sample's number, so that the order of fourteen million pictures takes no memory.
    """
    epoch, position = divmod(sample, count)
    return index_shuffle(position, max_index=count - 1, seed=_seed_of_epoch(seed, epoch), rounds=ROUNDS)


@functools.lru_cache(maxsize=8)
def _seed_of_epoch(seed, epoch):
    return int(generator(seed, ORDER, epoch).integers(2**32))


def _mixed(mix, seed, numbered):
    for step, batch in numbered:
        substituted = batch.pop("substituted")
        batch = batch if mix is None else mix(generator(seed, MIX, step), batch)
        yield {**batch, "substituted": substituted}


def evaluation_batches(source, *, batch_size, image_size, crop_fraction, workers=None, share=WHOLE):
    """Every picture of the source once, in its order; the last batch is filled up with pictures of weight 0.

    Args:
        crop_fraction: the part of the resized picture that the centre crop keeps; None squashes the picture to the
            size. A picture that has the size already is taken as it is.
        share: as of `training_batches`; all processes yield as many batches, and every picture comes in one of them.
    Returns:
        An iterator of dicts: `images` uint8 (rows, h, w, C), `labels` int32 (rows,) if the source has labels, `weight`
        float32 (rows,), 1 or 0.
    Raises:
        UnreadableImage: at the first picture that cannot be read.
    """
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must be in (0, 1], or None for no crop. Received: {crop_fraction!r}")

    rows, batches = _Rows(batch_size, share), -(-source.count // batch_size)

    def sample(image, label, weight):
        labels = {"labels": np.int32(label)} if source.labelled else {}
        return {"images": image, **labels, "weight": np.float32(weight)}

    def prepared(picture, label):
        return sample(evaluation_picture(picture, tuple(image_size), crop_fraction), label, 1)

    fill = sample(np.zeros((*image_size, source.channels), "uint8"), 0, 0)

    def of_number(n):
        number = rows.sample(n)
        return prepared(*source.opened(number)) if number < source.count else fill

    if isinstance(source, StreamSource):
        records = (record for record in source.in_order() if record[0] in rows)
        samples = _threaded(lambda *record: prepared(*source.opened(*record)), records, workers)
        samples = itertools.chain(samples, itertools.repeat(fill))
    else:
        samples = _read(grain.MapDataset.range(batches * rows.count).map(of_number), workers, rows.count)
    return _ahead(_stacked(samples, rows.count) for _ in range(batches))


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
