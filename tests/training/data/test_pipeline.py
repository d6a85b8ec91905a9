import contextlib
import itertools
import threading
import tracemalloc

import numpy as np
import pytest

from tests.training.data.conftest import assert_shares_make_up, batches_of, write_picture
from training.data import UnreadableImage, evaluation_batches, open_source, pipeline
from training.data.picture_source import PictureSource

PLAIN = {"image_size": (24, 20), "crop": "none", "flip": False}


@contextlib.contextmanager
def warnings_of(monkeypatch):
    said = []
    monkeypatch.setattr(
        "training.data.picture_source.logging.warning", lambda text, *values: said.append(text % values)
    )
    yield said


def batches(source, first_step=0, steps=6, batch_size=4, seed=5, **options):
    options = {"image_size": (16, 32), "mask": (32, 12), **options}
    return batches_of(source, batch_size=batch_size, seed=seed, first_step=first_step, steps=steps, **options)


def joined(run, key):
    return np.concatenate([batch[key] for batch in run])


def assert_same(run, other):
    assert len(run) == len(other)
    for batch, twin in zip(run, other, strict=True):
        assert batch.keys() == twin.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], twin[key])


@pytest.fixture
def source(folder):
    return open_source(f"folder:{folder}", "train")


def index_of(source, pictures):
    """Which picture of the source each one is."""
    numbers = {source.picture(k).tobytes(): k for k in range(source.count)}
    return [numbers[picture.tobytes()] for picture in pictures]


def test_shapes_and_types(source):
    for batch in batches(source):
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "images": ((4, 16, 32, 3), "uint8"),
            "labels": ((4,), "int32"),
            "visible": ((4, 12), "int32"),
            "substituted": ((4,), "bool"),
        }
        assert not batch["substituted"].any()
        assert all(value.flags.writeable for value in batch.values())


def test_every_epoch_is_a_permutation_of_its_own(source):
    run = batches(source, steps=10, batch_size=3, mask=None, **PLAIN)  # 15 pictures: two epochs
    indices = index_of(source, joined(run, "images"))
    assert sorted(indices[:15]) == sorted(indices[15:]) == list(range(15))
    assert indices[:15] != indices[15:] and indices[:15] != list(range(15))
    assert joined(run, "labels").tolist() == source.labels[indices].tolist()
    other_seed = index_of(source, joined(batches(source, seed=6, steps=5, batch_size=3, mask=None, **PLAIN), "images"))
    assert other_seed != indices[:15]


@pytest.mark.parametrize("crop", ["random_resized", "padded"])
def test_a_restart_equals_the_uninterrupted_run(source, folder, crop):
    whole = batches(source, steps=9, crop=crop)  # 4 does not divide 15: steps 3 and 7 straddle two epochs
    for first_step in (1, 4, 8):
        resumed = open_source(f"folder:{folder}", "train")
        assert_same(batches(resumed, first_step=first_step, steps=9 - first_step, crop=crop), whole[first_step:])


def test_the_number_of_workers_changes_nothing(source):
    alone = batches(source, workers=1)
    assert_same(batches(source, workers=7), alone)
    assert_same(batches(source), alone)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_make_the_same_batches(source, processes):
    assert_same(batches(source, processes=processes), batches(source))


def test_a_slow_picture_does_not_change_the_order():
    options = {"steps": 2, "image_size": (8, 8), "crop": "none", "flip": False, "mask": None}
    fast = PictureSource("fast", lambda index: np.full((8, 8, 3), index, "uint8"), 8, channels=3, labels=range(8))
    order = joined(batches(fast, **options), "labels")
    later = threading.Event()

    def read(index):
        if index == order[0]:
            assert later.wait(30)  # until another worker has read a picture of the next batch
        elif index == order[4]:
            later.set()
        return np.full((8, 8, 3), index, "uint8")

    source = PictureSource("slow", read, 8, channels=3, labels=range(8))
    run = batches(source, workers=2, **options)
    assert joined(run, "images")[:, 0, 0, 0].tolist() == order.tolist()


def test_mixing_draws_from_the_step(source):
    def mix(rng, batch):
        return {**batch, "order": rng.permutation(len(batch["images"]))}

    whole = batches(source, mix=mix)
    assert len({tuple(batch["order"]) for batch in whole}) > 1
    assert_same(batches(source, first_step=2, steps=4, mix=mix, workers=1), whole[2:])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_share_the_rows_of_every_batch(source, count, processes):
    mix = lambda rng, batch: {**batch, "drawn": rng.random(1)}  # noqa: E731  the same in all of them
    shares = [batches(source, mix=mix, share=(number, count), processes=processes) for number in range(count)]
    assert len({float(batch["drawn"][0]) for batch in sum(shares, [])}) == 6
    plain = [[{k: v for k, v in batch.items() if k != "drawn"} for batch in share] for share in shares]
    assert_shares_make_up(batches(source), plain)


def test_a_process_reads_its_share_alone():
    options = {"steps": 4, "batch_size": 6, "image_size": (8, 8), "crop": "none", "flip": False, "mask": None}
    read = [[], [], []]
    for number in range(3):

        def pixels(index, number=number):
            read[number].append(index)
            return np.full((8, 8, 3), index, "uint8")

        batches(PictureSource("counted", pixels, 24, channels=3, labels=range(24)), share=(number, 3), **options)
    assert [len(numbers) for numbers in read] == [8, 8, 8] and sorted(sum(read, [])) == list(range(24))


@pytest.mark.parametrize("count", [2, 3])
def test_evaluation_counts_every_picture_once_over_all_processes(source, count):
    options = {"batch_size": 12, "image_size": (24, 20), "crop_fraction": 0.875}  # 15: the last process is all fill
    shares = [list(evaluation_batches(source, share=(number, count), **options)) for number in range(count)]
    assert_shares_make_up(list(evaluation_batches(source, **options)), shares)
    assert sum(batch["weight"].sum() for batch in sum(shares, [])) == 15


@pytest.mark.parametrize(
    "share, message",
    [
        ((2, 2), r"share must be \(number, count of processes\).*Received: \(2, 2\)"),
        ((0, 3), "3 processes must divide the batch. Received: batch_size=4"),
    ],
)
def test_impossible_shares_are_refused(source, share, message):
    with pytest.raises(ValueError, match=message):
        batches(source, share=share)
    with pytest.raises(ValueError, match=message):
        evaluation_batches(source, batch_size=4, image_size=(24, 20), crop_fraction=None, share=share)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000, 4097])
def test_every_epoch_of_any_length_is_a_permutation(count):
    epochs = [[pipeline.picture_of(epoch * count + k, count, seed=3) for k in range(count)] for epoch in range(3)]
    assert all(sorted(order) == list(range(count)) for order in epochs)
    assert count < 17 or epochs[0] != epochs[1] != epochs[2]


def order_of(count, seed, first=0):
    return np.array([pipeline.picture_of(first + k, count, seed) for k in range(4000)])


def test_the_order_of_a_large_set_needs_no_table():
    tracemalloc.start()
    order_of(14_197_122, seed=1, first=14_197_122)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("count", [14_197_122, 50_000])
def test_an_order_is_as_good_as_drawn(count):
    orders = [order_of(count, seed) for seed in range(5)] + [order_of(count, 0, epoch * count) for epoch in (1, 2)]
    quarters = [np.bincount(order // -(-count // 4), minlength=4) for order in orders]
    assert np.abs(np.array(quarters) - 1000).max() < 5 * 27  # of a deviation of 27
    pairs = [(order[lag:], order[:-lag]) for order in orders for lag in (1, 2, 4, 8, 64, 512)]
    pairs += list(itertools.combinations(orders, 2))  # seeds and epochs among each other
    assert max(abs(np.corrcoef(*pair)[0, 1]) for pair in pairs) < 5 / np.sqrt(4000)


def test_masks_differ_by_sample_and_by_epoch(source):
    visible = joined(batches(source, steps=10, batch_size=3), "visible")
    assert (np.diff(visible, axis=1) > 0).all() and visible.min() >= 0 and visible.max() < 32
    assert len({tuple(mask) for mask in visible}) == 30


def test_crops_differ_by_epoch(source):
    images = joined(batches(source, steps=10, batch_size=3), "images")
    assert len({image.tobytes() for image in images}) == 30


def test_padded_crop_and_flip_move_but_keep_the_picture(source):
    options = {"image_size": (24, 20), "crop": "padded", "mask": None, "steps": 10, "batch_size": 3}
    moved = joined(batches(source, **options), "images")
    plain = joined(batches(source, **{**options, "crop": "none", "flip": False}), "images")
    mirrored = np.pad(plain, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    flips = 0
    for image, around in zip(moved, mirrored, strict=True):
        windows = {around[t : t + 24, x : x + 20].tobytes() for t in range(9) for x in range(9)}
        assert image.tobytes() in windows or image[:, ::-1].tobytes() in windows
        flips += image.tobytes() not in windows
    assert 5 <= flips <= 25


def test_unlabelled_sources_have_no_labels_and_grey_ones_one_channel(folder):
    source = open_source(f"folder:{folder}", "unlabelled", channels=1)
    (batch,) = batches(source, steps=1)
    assert batch.keys() == {"images", "visible", "substituted"} and batch["images"].shape == (4, 16, 32, 1)
    (batch,) = evaluation_batches(source, batch_size=15, image_size=(16, 32), crop_fraction=0.875)
    assert batch.keys() == {"images", "weight"}


def test_shapes_are_read_like_files():
    source = open_source("shapes:30", "train")
    run = batches(source, steps=3, batch_size=10, image_size=(64, 64), crop="none", flip=False, mask=None)
    assert np.bincount(joined(run, "labels")).tolist() == [3] * 10
    assert sorted(index_of(source, joined(run, "images"))) == list(range(30))


def test_unreadable_pictures_are_replaced_counted_and_named_once(folder, monkeypatch):
    good = batches(open_source(f"folder:{folder}", "train"), steps=10, batch_size=3, mask=None, **PLAIN)
    source = open_source(f"folder:{folder}", "train")
    order = index_of(source, joined(good, "images"))
    broken = folder / "train" / "dog" / "2.png"  # index 4 + 2
    broken.write_bytes(broken.read_bytes()[:60])
    damaged = open_source(f"folder:{folder}", "train")
    with warnings_of(monkeypatch) as said:
        run = batches(damaged, steps=10, batch_size=3, mask=None, **PLAIN)
    assert len(said) == 1 and str(broken) in said[0] and "\n" not in said[0]
    assert joined(run, "substituted").tolist() == [index == 6 for index in order]
    expected = [7 if index == 6 else index for index in order]  # the next one in the folder
    assert index_of(source, joined(run, "images")) == expected
    assert joined(run, "labels").tolist() == source.labels[expected].tolist()
    with warnings_of(monkeypatch):
        resumed = batches(open_source(f"folder:{folder}", "train"), 4, 6, 3, mask=None, **PLAIN)
    assert_same(resumed, run[4:])


def test_two_workers_that_meet_the_same_damage_warn_once(monkeypatch):
    together = threading.Barrier(2)

    def read(index):
        if index == 0:
            together.wait(30)
            raise UnreadableImage("cannot read the image 0: damaged")
        return np.full((8, 8, 3), index, "uint8")

    source = PictureSource("shared", read, 2, channels=3)
    with warnings_of(monkeypatch) as said:
        prepare = lambda picture, label: {}  # noqa: E731
        workers = [threading.Thread(target=source.readable, args=(0, prepare)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(said) == 1


def test_a_set_without_any_readable_picture_stops_the_run(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.png").write_text("no picture")
    source = open_source(f"folder:{tmp_path}", "unlabelled")
    with (
        warnings_of(monkeypatch),
        pytest.raises(
            UnreadableImage, match=r"(?m)^none of the 3 images of folder:.* can be read; the first one: cannot .*$"
        ),
    ):
        batches(source)


def test_evaluation_reads_everything_once_in_order_and_fills_up(source):
    run = list(evaluation_batches(source, batch_size=4, image_size=(24, 20), crop_fraction=0.875))
    assert [len(batch["images"]) for batch in run] == [4, 4, 4, 4]
    weight = joined(run, "weight")
    assert weight.tolist() == [1.0] * 15 + [0.0] and weight.dtype == np.float32
    assert joined(run, "labels")[:15].tolist() == source.labels.tolist()
    assert index_of(source, joined(run, "images")[:15]) == list(range(15))
    assert not joined(run, "images")[15].any()


def test_evaluation_stops_at_an_unreadable_picture_and_names_it(folder):
    broken = folder / "test" / "eel" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    source = open_source(f"folder:{folder}", "test")
    with pytest.raises(UnreadableImage, match=rf"(?m)^cannot read the image {broken}: [^\n]+$"):
        list(evaluation_batches(source, batch_size=4, image_size=(24, 20), crop_fraction=0.875))


def test_pictures_of_different_sizes_come_out_alike(tmp_path):
    for number, size in enumerate([(30, 50), (21, 17), (64, 16), (24, 20)]):
        write_picture(tmp_path / f"{number}.png", number, size)
    source = open_source(f"folder:{tmp_path}", "unlabelled")
    for crop in ("random_resized", "padded", "none"):
        assert joined(batches(source, crop=crop, image_size=(24, 20), mask=(5, 2)), "images").shape == (24, 24, 20, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": "centre"}, "crop must be one of random_resized, padded, none. Received: 'centre'"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale must be .* Received: \(0.0, 1.0\)"),
        ({"crop": "padded", "image_size": (4, 32), "mask": None}, r"mirrors 4 pixels .* Received: \(4, 32\)"),
        ({"batch_size": 0}, "batch_size must be at least 1. Received: 0"),
        ({"seed": -1}, "seed and first_step must be at least 0, .*seed=-1"),
        ({"steps": 0}, "steps at least 1.*steps=0"),
        ({"image_size": 32}, r"image_size must be \(height, width\).*Received: 32"),
    ],
)
def test_bad_options_are_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        batches(source, **options)


def test_a_bad_crop_fraction_is_refused(source):
    with pytest.raises(ValueError, match=r"crop_fraction must be in \(0, 1\], .*Received: 87.5"):
        evaluation_batches(source, batch_size=4, image_size=(16, 32), crop_fraction=87.5)
