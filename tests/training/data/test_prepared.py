import functools

import cloudpickle
import numpy as np
import pytest

from tests.training.data.conftest import assert_shares_make_up, batches_of
from training.data import (
    PictureSource,
    StreamSource,
    UnreadableImage,
    evaluation_batches,
    open_source,
    take_per_class,
)
from training.data import picture_source as picture_source_module
from training.data import prepared as prepared_module

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is an optional dependency of training")


@pytest.fixture
def mnist(monkeypatch):
    """MNIST's features with 23 made pictures in every split."""
    with tfds.testing.mock_data(num_examples=23):
        yield


@pytest.fixture
def streamed(mnist, monkeypatch):
    monkeypatch.setattr(prepared_module, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(picture_source_module, "SHUFFLE_WINDOW", 6)
    return open_source("tfds:mnist", "train")


def batches(source, first_step=0, steps=9, **options):
    kinds = {"batch_size": 5, "image_size": (28, 28), "crop": "none", "flip": False, "seed": 3, **options}
    return batches_of(source, first_step=first_step, steps=steps, **kinds)


def joined(run, key):
    return np.concatenate([batch[key] for batch in run])


def fingerprints(run):
    return [image.tobytes() for image in joined(run, "images")]


def test_small_sets_are_read_in_any_order(mnist):
    source = open_source("tfds:mnist", "train", channels=1)
    assert (source.count, len(source.classes), source.channels) == (23, 10, 1)
    assert source.picture(4).shape == (28, 28, 1)
    assert open_source("tfds:mnist", "train").picture(4).shape == (28, 28, 3)  # grey, repeated
    part = source.subset([7, 4])
    np.testing.assert_array_equal(part.picture(1), source.picture(4))
    assert part.labels.tolist() == source.labels[[7, 4]].tolist()


def test_unlabelled_pictures_have_no_labels(mnist):
    assert open_source("tfds:mnist", "unlabelled").labels is None
    assert open_source("tfds:mnist", "test").labelled


class TinyColours(tfds.core.GeneratorBasedBuilder):
    """Pictures of one colour, of several sizes; its test split has no labels, as that of a competition."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["dark", "light"])
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"photo": tfds.features.Image(), "kind": label})
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(6, True),
            "validation": self._generate_examples(4, True),
            "test": self._generate_examples(5, False),
        }

    def _generate_examples(self, count, labelled):
        for k in range(count):
            yield k, {"photo": np.full((8 + k, 9, 3), 40 * k, "uint8"), "kind": k // 3 % 2 if labelled else -1}


@pytest.fixture
def tiny_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path)))


@pytest.fixture(params=["tfrecord", "array_record"])
def tiny_colours(tiny_folder, request):
    builder = tfds.builder("tiny_colours", file_format=request.param)
    builder.download_and_prepare()  # nothing to download: its pictures are made
    return request.param


def test_a_set_on_disk_is_read_and_an_unlabelled_test_split_passed_over(tiny_colours):
    source = open_source("tfds:tiny_colours", "train")
    assert (source.count, source.classes) == (6, ("dark", "light"))
    for k in range(6):  # prepared sets are shuffled when they are written
        picture = source.picture(k)
        number = picture[0, 0, 0] // 40
        assert picture.shape == (8 + number, 9, 3) and (picture == 40 * number).all()
        assert source.labels[k] == number // 3
    assert open_source("tfds:tiny_colours", "unlabelled").count == 6
    held_out = open_source("tfds:tiny_colours", "test")
    assert held_out.count == 4 and sorted(held_out.labels) == [0, 0, 0, 1]


@pytest.mark.parametrize("tiny_colours", ["array_record"], indirect=True)
def test_array_records_are_read_at_random_whatever_their_size(tiny_colours, monkeypatch):
    small = open_source("tfds:tiny_colours", "train")
    monkeypatch.setattr(prepared_module, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(prepared_module, "_require_tensorflow", None)  # calling it would fail
    large = open_source("tfds:tiny_colours", "train")
    assert isinstance(large, PictureSource) and large.labelled and large.labels is None
    sent = cloudpickle.loads(cloudpickle.dumps(large))
    for k in (3, 0, 5):
        for source in (large, sent):
            np.testing.assert_array_equal(source.picture(k), small.picture(k))
            assert source.opened(k)[1] == small.labels[k]
    with pytest.raises(ValueError, match="needs all labels. Received: tfds:tiny_colours .*has them in its records"):
        take_per_class(large, 1, 0)
    options = {"batch_size": 3, "image_size": (8, 9), "steps": 4, "crop": "random_resized"}
    for batch, twin in zip(batches(large, **options), batches(small, **options), strict=True):
        np.testing.assert_array_equal(batch["images"], twin["images"])
        np.testing.assert_array_equal(batch["labels"], twin["labels"])


@pytest.mark.parametrize("tiny_colours", ["array_record"], indirect=True)
def test_a_damaged_array_record_is_named(tiny_colours, tmp_path):
    (path,) = tmp_path.glob("tiny_colours/*/*-train.array_record-*")
    data = bytearray(path.read_bytes())
    data[data.index(b"PNG", data.index(b"PNG") + 1) + 20] ^= 255
    path.write_bytes(data)
    source = open_source("tfds:tiny_colours", "unlabelled", keep=False)
    with pytest.raises(UnreadableImage, match=rf"^cannot read record 1 of {path}: .*mismatch[^\n]*$"):
        source.picture(1)


def test_download_prepares_for_reading_at_random(tiny_folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"tiny_colours must have been prepared.*--set download=true prepares"):
        open_source("tfds:tiny_colours", "train")
    with monkeypatch.context() as patch:
        patch.setattr(TinyColours, "_split_generators", lambda self, manager: 1 / 0)
        with pytest.raises(OSError, match="^tfds:tiny_colours could not be downloaded and prepared: division by zero$"):
            open_source("tfds:tiny_colours", "train", download=True)
    source = open_source("tfds:tiny_colours", "train", download=True)
    assert tfds.builder("tiny_colours").info.file_format.value == "array_record" and source.count == 6
    monkeypatch.setattr(prepared_module, "_prepare", None)  # it is there: calling it would fail
    assert open_source("tfds:tiny_colours", "train", download=True).count == 6


def test_a_split_that_is_not_there_is_refused(tiny_colours, monkeypatch):
    monkeypatch.setitem(prepared_module._SPLITS, "test", ("held_out",))
    with pytest.raises(ValueError, match="need a split held_out. Received: tfds:tiny_colours, which has .*train"):
        open_source("tfds:tiny_colours", "test")


def test_a_stream_reads_the_same_pictures(streamed, mnist):
    assert isinstance(streamed, StreamSource) and streamed.count == 23
    kept = list(evaluation_batches(streamed, batch_size=10, image_size=(28, 28), crop_fraction=0.875))
    assert joined(kept, "weight").sum() == 23 and joined(kept, "images").shape == (30, 28, 28, 3)
    run = batches(streamed, steps=14)  # 70 samples: three epochs and one more
    everything = sorted(fingerprints(kept)[:23])
    prints = fingerprints(run)
    assert sorted(prints[:23]) == sorted(prints[23:46]) == everything
    assert prints[:23] != prints[23:46]
    labels = dict(zip(fingerprints(kept), joined(kept, "labels"), strict=True))
    assert [labels[p] for p in prints] == joined(run, "labels").tolist()


@pytest.mark.parametrize("first_step", [2, 5, 7])  # 23 pictures in batches of 5: inside of the first two epochs
def test_a_stream_resumes_by_skipping(streamed, first_step):
    options = {"crop": "random_resized", "flip": True, "mask": (16, 6)}
    whole = batches(streamed, **options)
    np.random.seed(first_step)  # what others do to the global seed must not matter
    resumed = batches(streamed, first_step, 9 - first_step, workers=1, **options)
    for batch, twin in zip(whole[first_step:], resumed, strict=True):
        for key in ("images", "labels", "visible"):
            np.testing.assert_array_equal(batch[key], twin[key])


def test_processes_share_a_stream(streamed):
    options = {"batch_size": 4, "crop": "random_resized", "flip": True, "first_step": 3}
    shares = [batches(streamed, share=(number, 2), **options) for number in range(2)]
    assert_shares_make_up(batches(streamed, **options), shares)
    options = {"batch_size": 20, "image_size": (28, 28), "crop_fraction": 0.875}
    shares = [list(evaluation_batches(streamed, share=(number, 2), **options)) for number in range(2)]
    assert_shares_make_up(list(evaluation_batches(streamed, **options)), shares)


def test_a_number_per_class_needs_random_access(streamed):
    with pytest.raises(ValueError, match=r"pictures in any order. Received: tfds:mnist \(train\), which is a stream"):
        take_per_class(streamed, 1, 0)


def test_unprepared_and_unknown_sets_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match=r"^tfds:mnist must have been prepared.*builder\('mnist', file_format='array_record'\)[^\n]*$",
    ):
        open_source("tfds:mnist", "train")
    with pytest.raises(ValueError, match=r"^tfds:NAME must name .*Received: 'mnistt'. Closest: mnist[^\n]*$") as caught:
        open_source("tfds:mnistt", "train")
    assert len(str(caught.value)) < 250


def test_sets_without_pictures_are_refused(mnist):
    with pytest.raises(ValueError, match="must have a picture and a class label. Received features: "):
        open_source("tfds:ag_news_subset", "train")


@pytest.mark.parametrize(
    "name", ["mnist:9.9.9", "mnist:", "mnist:x", "a b", "../mnist", "mnist[train]", "cifar10_1/none", "huggingface:a/b"]
)
def test_odd_names_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="^tfds:NAME must name a data set of tensorflow-datasets") as caught:
        open_source(f"tfds:{name}", "train")
    assert f"Received: {name!r}" in str(caught.value) and "\n" not in str(caught.value)
