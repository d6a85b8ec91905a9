"""Photos with label maps: layouts, and one line for whatever is wrong with a file."""

import numpy as np
import pytest
from PIL import Image

from tests.training.data.conftest import write_picture
from training.data import SegmentationAugmentation, open_maps
from training.data.label_maps import IGNORE, require_maps
from training.data.segmentation import distorted, largest_share, scaled_size
from training.devices import ONE


def write_map(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, "uint8")).save(path)


def values_of(seed, size=(24, 20), classes=3):
    return np.random.default_rng(seed).integers(0, classes, size)


def write_pair(images, labels, name, seed, size=(24, 20)):
    write_picture(images / f"{name}.png", seed, size)
    write_map(labels / f"{name}.png", values_of(seed, size))


def opened(source, index):
    picture, labels = source.opened(index)
    return picture.array, labels.array(picture.size)


@pytest.mark.parametrize("layout", ["{split}/{kind}", "{kind}/{split}"])
@pytest.mark.parametrize("test", ["val", "test"])
def test_split_folders(tmp_path, layout, test):
    for split, count in (("train", 3), (test, 2)):
        for number in range(count):
            folders = (tmp_path / layout.format(split=split, kind=kind) for kind in ("images", "labels"))
            write_pair(*folders, f"{split}{number}", number)
    sources = [open_maps(f"folder:{tmp_path}", split) for split in ("train", "test")]
    assert [source.count for source in sources] == [3, 2] and sources[0].classes == ("0", "1", "2")
    picture, labels = opened(sources[0], 1)
    assert picture.shape == (24, 20, 3)
    np.testing.assert_array_equal(labels, values_of(1))


def test_a_folder_without_splits_is_divided_by_name(tmp_path):
    for number in range(10):
        write_pair(tmp_path / "images", tmp_path / "labels", f"p{number}", number)
    train, test = (open_maps(f"folder:{tmp_path}", split, validation_split=0.3) for split in ("train", "test"))
    assert train.count + test.count == 10 and test.count >= 1
    seen = {opened(source, n)[0].tobytes() for source in (train, test) for n in range(source.count)}
    assert len(seen) == 10
    again = open_maps(f"folder:{tmp_path}", "test", validation_split=0.3)
    np.testing.assert_array_equal(opened(test, 0)[0], opened(again, 0)[0])


def test_ade20k_as_it_is_published(tmp_path):
    for split in ("training", "validation"):
        write_picture(tmp_path / "images" / split / "a.png", 1)
        values = values_of(1)
        values[0, :4] = (0, 1, 150, 2)
        write_map(tmp_path / "annotations" / split / "a.png", values)
    others = open_maps(f"folder:{tmp_path}", "test")  # other sets have this layout, with classes from 0 on
    assert len(others.classes) == 151
    np.testing.assert_array_equal(opened(others, 0)[1][0, :4], [0, 1, 150, 2])
    names = "".join(f"{i}\t0.1\t9\t1\tname {i}, other\n" for i in range(1, 151))
    (tmp_path / "objectInfo150.txt").write_text(f"Idx\tRatio\tTrain\tVal\tName\n{names}")
    source = open_maps(f"folder:{tmp_path}", "test")
    assert len(source.classes) == 150 and source.classes[0] == "name 1" and source.classes[-1] == "name 150"
    _, labels = opened(source, 0)
    np.testing.assert_array_equal(labels[0, :4], [IGNORE, 0, 149, 1])


def test_names_and_ignored_classes_of_a_file(tmp_path):
    write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", "a", 1)
    (tmp_path / "classes.txt").write_text("road\ncar\nvoid\n")
    source = open_maps(f"folder:{tmp_path}", "train", ignored=(2, 255))
    assert source.classes == ("road", "car")
    labels = opened(source, 0)[1]
    np.testing.assert_array_equal(labels, np.where(values_of(1) == 2, IGNORE, values_of(1)))


def test_drawn_shapes_have_maps():
    source = open_maps("shapes:10", "train")
    assert source.classes[-1] == "ground" and source.count == 10
    for index in range(10):
        picture, labels = opened(source, index)
        assert picture.shape == (64, 64, 3) and set(np.unique(labels)) <= {index, 10}
        assert 0.03 < (labels == index).mean() < 0.6


@pytest.mark.parametrize("fault", ["class", "size", "colour", "damaged"])
def test_a_bad_map_is_named(tmp_path, fault):
    folder = tmp_path / "train"
    write_pair(folder / "images", folder / "labels", "a", 1)
    write_pair(folder / "images", folder / "labels", "bad", 2)
    bad = folder / "labels" / "bad.png"
    if fault == "class":
        write_map(bad, np.full((24, 20), 7))
        message = r"labels must be 0..2, or ignored: \(255,\). Received: 7 in .*bad.png"
    elif fault == "size":
        write_map(bad, values_of(2, (20, 24)))
        message = r"bad.png must have the size of its photo .*bad.png, \(24, 20\). Received: \(20, 24\)"
    elif fault == "colour":
        write_picture(bad, 3)
        message = "a label map has one channel. Received: .*bad.png, of mode RGB"
    else:
        bad.write_bytes(b"no picture")
        message = "cannot read the label map .*bad.png"
    source = open_maps(f"folder:{tmp_path}", "train", classes=3)
    with pytest.raises(ValueError, match=message):
        for index in range(2):
            opened(source, index)


def test_a_photo_without_a_map_is_named(tmp_path):
    write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", "a", 1)
    write_picture(tmp_path / "train" / "images" / "alone.png", 1)
    with pytest.raises(FileNotFoundError, match="every photo needs a label map of its name .*None for: .*alone.png"):
        open_maps(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize("data", ["tfds:ade20k", "records:x", "folder:"])
def test_other_data_is_refused(data):
    with pytest.raises(ValueError, match="pictures with label maps must be shapes, shapes:COUNT or folder:PATH"):
        open_maps(data, "train")


def test_photos_may_share_a_map_by_a_link(tmp_path):
    for name in ("a", "b"):
        write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", name, 1)
    shared = tmp_path / "train" / "labels" / "b.png"
    shared.unlink()
    shared.symlink_to("a.png")
    first, second = (opened(open_maps(f"folder:{tmp_path}", "train"), index)[1] for index in range(2))
    np.testing.assert_array_equal(first, second)


def test_an_empty_folder_names_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"label maps need the layout PATH/train/\{images,labels\}"):
        open_maps(f"folder:{tmp_path}", "train")


class _Map:
    def __init__(self, values):
        self.values = values

    def array(self, size):
        return self.values


def augmented(seed, values, picture=None, **options):
    """A picture whose red is its label map's value, so that both must go the same way."""
    from training.data.decode import Pixels

    if picture is None:
        picture = np.stack([values * 20, values * 0, values * 0], -1).astype("uint8")
    given = {"fill": (9, 9, 9), "distort": False, "scale": (1.0, 1.0), **options}
    augmentation = SegmentationAugmentation((16, 24), **given)
    return augmentation(np.random.default_rng(seed), Pixels(picture), _Map(values.astype("uint8")))


@pytest.mark.parametrize("seed", range(6))
def test_photo_and_map_go_the_same_way(seed):
    values = np.repeat(np.repeat(values_of(0, (10, 12), 5), 9, 0), 9, 1)
    image, labels = augmented(seed, values, scale=(0.6, 1.7))
    inside = labels != IGNORE
    same = np.abs(image[..., 0].astype(int) - 20 * labels.astype(int))[inside] <= 2
    assert image.shape == (16, 24, 3) and labels.shape == (16, 24) and image.dtype == labels.dtype == np.uint8
    assert same.mean() > 0.6  # all but what lies between two areas


def test_what_a_photo_does_not_reach_is_filled_up():
    image, labels = augmented(0, values_of(0, (10, 12)), largest_share=1.0)
    assert (labels[10:] == IGNORE).all() and (labels[:, 12:] == IGNORE).all() and (image[10:] == 9).all()
    assert (labels[:10, :12] != IGNORE).all()


def test_a_crop_of_one_class_is_drawn_anew():
    values = np.zeros((200, 200), int)
    values[:, 150:] = 1
    shares = [largest_share(augmented(seed, values)[1]) for seed in range(40)]
    plain = [largest_share(augmented(seed, values, largest_share=1.0)[1]) for seed in range(40)]
    assert np.mean(np.array(shares) < 0.75) > 2 * np.mean(np.array(plain) < 0.75)


def test_sizes_keep_the_ratio_within_the_limits():
    assert scaled_size((683, 1024), (2048, 512), 1.0) == (512, 768)
    assert scaled_size((683, 1024), (2048, 512), 0.5) == (256, 384)
    assert scaled_size((683, 1024), None, 0.5) == (342, 512)


def test_distortion_keeps_to_its_ranges_and_grey_has_no_colour():
    rng, flat = np.random.default_rng(0), np.full((4, 5, 3), 100, "uint8")
    found = np.stack([distorted(rng, flat) for _ in range(300)]).astype(float)
    assert found.min() >= (100 - 33) * 0.5 - 1 and found.max() <= (100 + 33) * 1.5 + 1
    assert np.ptp(found, axis=-1).max() <= 1  # saturation and hue leave grey as it is
    unchanged = (found == 100).all((1, 2, 3)).mean()
    assert 0.15 < unchanged < 0.35  # half without brightness, half without contrast
    colourful = np.broadcast_to(np.array([200, 40, 40], "uint8"), (4, 5, 3))
    hues = {int(np.argmax(distorted(rng, colourful)[0, 0])) for _ in range(200)}
    assert hues == {0}  # 36 degrees of hue do not make red green or blue
    assert distorted(rng, flat[..., :1]).shape == (4, 5, 1)


def test_a_class_that_does_not_count_keeps_the_others_numbers(tmp_path):
    write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", "a", 1)
    (tmp_path / "classes.txt").write_text("ground\na\nb\n")
    source = open_maps(f"folder:{tmp_path}", "train", ignored=(0, 255))
    assert source.classes == ("ground", "a", "b")
    np.testing.assert_array_equal(opened(source, 0)[1], np.where(values_of(1) == 0, IGNORE, values_of(1)))


def test_more_classes_than_a_map_can_hold_are_refused(tmp_path):
    write_picture(tmp_path / "train" / "images" / "a.png", 1)
    (tmp_path / "train" / "labels").mkdir()
    Image.fromarray(np.arange(480, dtype="uint16").reshape(24, 20)).save(tmp_path / "train" / "labels" / "a.png")
    with pytest.raises(ValueError, match="label maps can have 255 classes at most. Received: 480."):
        open_maps(f"folder:{tmp_path}", "train")


def test_maps_without_a_class_and_a_single_photo_are_refused(tmp_path):
    write_pair(tmp_path / "images", tmp_path / "labels", "a", 1)
    with pytest.raises(FileNotFoundError, match="one photo to train on and one held out are needed. Received: 1"):
        open_maps(f"folder:{tmp_path}", "test")
    write_picture(tmp_path / "train" / "images" / "a.png", 1)
    write_map(tmp_path / "train" / "labels" / "a.png", np.full((24, 20), 255))
    with pytest.raises(ValueError, match="label maps must hold two classes at least.*Received: 0 beside ignored"):
        open_maps(f"folder:{tmp_path}", "train")


def test_sizes_are_those_of_the_evaluation():
    from keras_convnextv2 import pictures

    for have in ((683, 1024), (100, 1024), (333, 77)):
        for factor in (0.5, 1.0, 1.73):
            assert scaled_size(have, (2048, 512), factor) == pictures.scaled_size(have, (2048, 512), factor)
            assert scaled_size(have, None, factor) == pictures.scaled_size(have, None, factor)


def test_a_lossy_map_is_refused(tmp_path):
    folder = tmp_path / "train"
    write_pair(folder / "images", folder / "labels", "a", 1)
    (folder / "labels" / "a.png").rename(tmp_path / "kept.png")
    write_map(folder / "labels" / "a.jpg", values_of(1))
    with pytest.raises(ValueError, match="a label map keeps its values, as PNG does. Received: .*a.jpg, a JPEG"):
        open_maps(f"folder:{tmp_path}", "train")


def test_whatever_the_decoder_says_of_a_map_names_it(tmp_path, monkeypatch):
    write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", "a", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own error of a picture this large is no OSError
    with pytest.raises(ValueError, match="cannot read the label map .*a.png: "):
        open_maps(f"folder:{tmp_path}", "train")


def test_two_photos_of_one_name_are_refused(tmp_path):
    write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", "a", 1)
    write_picture(tmp_path / "train" / "images" / "a.bmp", 2)
    with pytest.raises(ValueError, match="names without their suffixes must differ.*a.bmp and .*a.png"):
        open_maps(f"folder:{tmp_path}", "train")


def test_names_with_a_mark_before_them_and_in_another_encoding(tmp_path):
    write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", "a", 1)
    (tmp_path / "classes.txt").write_bytes("road\ncar\ncafé\n".encode("utf-8-sig"))
    assert open_maps(f"folder:{tmp_path}", "train").classes == ("road", "car", "café")
    (tmp_path / "classes.txt").write_bytes("road\ncar\ncafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt must be a text in UTF-8. Received: "):
        open_maps(f"folder:{tmp_path}", "train")


def test_all_bad_maps_are_named_at_once(tmp_path):
    for number in range(30):
        write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", f"{number:02}", number)
    for number in range(4, 28):
        write_map(tmp_path / "train" / "labels" / f"{number:02}.png", values_of(number, (20, 24)))
    (tmp_path / "train" / "images" / "02.png").write_text("no picture")
    source = open_maps(f"folder:{tmp_path}", "train")
    with pytest.raises(ValueError, match=r"must be sound. Received: 25 that are not: .*02.png: not a") as caught:
        require_maps(source, print)
    named = str(caught.value).split("; ")
    assert len(named) == 21 and "22.png must have the size of its photo" in named[19]
    assert named[20] == "and 5 more"


def test_maps_of_training_are_checked_before_it(tmp_path):
    from training import segment
    from training.configs import Segment

    for split in ("train", "val"):
        write_pair(tmp_path / split / "images", tmp_path / split / "labels", "a", 1)
    write_map(tmp_path / "train" / "labels" / "a.png", values_of(2, (20, 24)))
    config = Segment(size="atto", image_size=(32, 48))
    with pytest.raises(ValueError, match="a.png must have the size of its photo"):
        segment.prepare(config, f"folder:{tmp_path}", lambda text, progress=False: None, ONE)
