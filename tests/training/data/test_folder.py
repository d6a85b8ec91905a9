import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.training.data.conftest import write_picture
from training.data import UnreadableImage, decode, open_source, require_readable
from training.data.decode import open_file
from training.evaluate import Evaluate
from training.predict import files_of
from training.protocol import Results


def test_labels_follow_the_alphabet(folder):
    source = open_source(f"folder:{folder}", "train")
    assert (source.count, source.classes) == (15, ("cat", "dog", "eel"))
    assert np.bincount(source.labels).tolist() == [4, 5, 6]
    expected = np.asarray(Image.open(folder / "train" / "dog" / "3.png"))
    np.testing.assert_array_equal(source.picture(4 + 3), expected)
    assert source.labels[4 + 3] == 1


def test_test_pictures_have_the_labels_of_train(folder):
    for picture in (folder / "test" / "cat").iterdir():
        picture.unlink()
    (folder / "test" / "cat").rmdir()
    source = open_source(f"folder:{folder}", "test")
    assert source.classes == ("cat", "dog", "eel") and source.labels.tolist() == [1, 1, 2, 2]


def test_val_serves_as_test_and_a_lone_test_folder_can_be_evaluated(folder):
    (folder / "test").rename(folder / "val")
    assert open_source(f"folder:{folder}", "test").count == 6
    (folder / "train").rename(folder / "elsewhere")
    assert open_source(f"folder:{folder}", "test").classes == ("cat", "dog", "eel")


def test_unlabelled_pictures_are_those_of_train_or_of_any_folder(folder):
    source = open_source(f"folder:{folder}", "unlabelled")
    assert (source.count, source.classes, source.labels) == (15, (), None)
    assert open_source(f"folder:{folder / 'test'}", "unlabelled").count == 6  # no train inside: all below it


def test_suffixes_in_any_case_hidden_and_other_files(tmp_path):
    for name in ("a.JPG", "b.Jpeg", "deep/er/c.PNG", "d.bmp", "e.GIF", "f.webp", ".hidden.png", ".trash/g.png"):
        write_picture(tmp_path / name, 0)
    (tmp_path / "notes.txt").write_text("no picture")
    assert open_source(f"folder:{tmp_path}", "unlabelled").count == 6


def test_linked_folders_are_followed(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("linked")
    (other / "train").mkdir()
    (other / "train" / "eel").symlink_to(folder / "train" / "eel", target_is_directory=True)
    assert open_source(f"folder:{other}", "train").count == open_source(f"folder:{other}", "unlabelled").count == 6


@pytest.mark.parametrize(
    "arrange, split, error, message",
    [
        (lambda p: None, "unlabelled", FileNotFoundError, r"no picture \(.jpg .*\) in .*Found there: nothing$"),
        (lambda p: (p / "a.txt").write_text(""), "unlabelled", FileNotFoundError, r"no picture.*1 files \(a.txt\)$"),
        (
            lambda p: write_picture(p / "a.png", 0),
            "train",
            FileNotFoundError,
            r"layout PATH/train/<class>.*1 files \(a.png\)",
        ),
        (
            lambda p: write_picture(p / "cat" / "a.png", 0),
            "train",
            FileNotFoundError,
            r"a class needs two pictures or more.*Received: 1 in .*cat",
        ),
        (
            lambda p: write_picture(p / "train" / "a.png", 0),
            "train",
            FileNotFoundError,
            r"one folder a class.*1 files \(a.png\)",
        ),
        (
            lambda p: (p / "train" / "cat").mkdir(parents=True),
            "train",
            FileNotFoundError,
            r"no picture.* in .*cat or below",
        ),
        (
            lambda p: write_picture(p / "train" / "cat" / "a.png", 0),
            "test",
            FileNotFoundError,
            r"no folder test or val",
        ),
    ],
    ids=["empty", "no picture", "flat", "one picture", "no classes", "empty class", "no test"],
)
def test_other_layouts_are_refused_in_one_line(tmp_path, arrange, split, error, message):
    arrange(tmp_path)
    with pytest.raises(error, match=message) as caught:
        open_source(f"folder:{tmp_path}", split)
    assert "\n" not in str(caught.value)


def test_strange_test_classes_and_missing_folders_are_refused(folder):
    write_picture(folder / "test" / "yak" / "a.png", 0)
    with pytest.raises(ValueError, match=r"must be among those of .*Received: yak; train has cat, dog, eel$"):
        open_source(f"folder:{folder}", "test")
    with pytest.raises(FileNotFoundError, match=r"folder:PATH needs a folder.*Received: .*nowhere"):
        open_source(f"folder:{pathlib.Path(folder) / 'nowhere'}", "train")


@pytest.fixture
def undivided(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        for number in range(3 + 17 * label):
            write_picture(tmp_path / name / f"{number}.png", [label, number])
    return tmp_path


def names_of(source, folder):
    numbers = {
        write_picture(folder / "again.png", [k // 100, k % 100]).tobytes(): k for k in (*range(3), *range(100, 120))
    }
    return {numbers[source.picture(k).tobytes()] for k in range(source.count)}


def test_one_folder_a_class_is_split_by_name(undivided, tmp_path_factory):
    aside = tmp_path_factory.mktemp("aside")
    train, test = (open_source(f"folder:{undivided}", split, validation_split=0.25) for split in ("train", "test"))
    assert train.classes == test.classes == ("ant", "bee")
    assert train.count + test.count == 23 and 2 <= test.count <= 9
    assert {*test.labels} == {*train.labels} == {0, 1}
    first = names_of(test, aside)
    assert not first & names_of(train, aside)
    for number in range(17, 20):  # what a picture's side is does not depend on the others
        (undivided / "bee" / f"{number}.png").unlink()
    again = names_of(open_source(f"folder:{undivided}", "test", validation_split=0.25), aside)
    assert again == {k for k in first if k < 117}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_every_class_is_on_both_sides(undivided, share):
    for split in ("train", "test"):
        source = open_source(f"folder:{undivided}", split, validation_split=share)
        assert np.bincount(source.labels).min() >= 1


def test_a_link_is_visited_once_and_takes_nothing_from_other_classes(folder):
    def links(place):
        (place / "loop").symlink_to(place)
        (place / "up").symlink_to("..")
        (place / "other").symlink_to(folder / "train" / "eel")

    before = open_source(f"folder:{folder}", "train")
    links(folder / "train" / "dog")
    outside = folder / "outside"
    write_picture(outside / "kept.png", 9)
    (folder / "train" / "cat" / "elsewhere").symlink_to(outside)  # a place of its own is followed
    (folder / "train" / "cat" / "again.png").symlink_to(folder / "train" / "cat" / "0.png")
    after = open_source(f"folder:{folder}", "train")
    assert np.bincount(after.labels).tolist() == [5, 5, 6] and before.count == 15
    assert open_source(f"folder:{folder}", "unlabelled").count == 16


def test_a_link_brings_no_pictures_of_another_split_and_none_of_another_class(folder):
    before = open_source(f"folder:{folder}", "train")
    for name, target in (("up", "../.."), ("above", "../../.."), ("tested", "../../test"), ("cats", "../../test/cat")):
        (folder / "train" / "dog" / name).symlink_to(target)
    for name in ("cat", "dog"):  # whichever class comes first in the alphabet
        (folder / "train" / name / "theirs.png").symlink_to("../eel/0.png")
    (folder / "train" / "eel" / "theirs.png").symlink_to("../cat/0.png")
    after = open_source(f"folder:{folder}", "train")
    assert np.bincount(after.labels).tolist() == np.bincount(before.labels).tolist() == [4, 5, 6]


def test_a_picture_that_two_classes_link_is_of_the_first_and_a_linked_split_stays_whole(folder):
    write_picture(folder / "pool" / "a.png", 9)
    for name in ("dog", "eel"):
        (folder / "train" / name / "a.png").symlink_to("../../pool/a.png")
    assert np.bincount(open_source(f"folder:{folder}", "train").labels).tolist() == [4, 6, 6]
    (folder / "test").rename(folder / "validation")
    (folder / "val").symlink_to("validation")
    (folder / "val" / "cat" / "trained.png").symlink_to("../../train/cat/0.png")  # on purpose: a file, of its class
    assert np.bincount(open_source(f"folder:{folder}", "test").labels).tolist() == [3, 2, 2]


def test_what_is_no_regular_file_is_passed_over(folder):
    os.mkfifo(folder / "train" / "cat" / "pipe.jpg")
    (folder / "train" / "cat" / "gone.png").symlink_to(folder / "nothing.png")
    assert open_source(f"folder:{folder}", "train").count == 15


def test_a_folder_that_cannot_be_read_is_named_and_a_disks_own_is_passed_over(folder, monkeypatch):
    (folder / "train" / "cat" / "lost+found").mkdir()
    (folder / "train" / "lost+found").mkdir()
    real, locked = os.scandir, str(folder / "train" / "cat" / "deeper")

    def scandir(place):
        if os.fspath(place).endswith(("deeper", "lost+found")):
            raise PermissionError(13, "Permission denied", os.fspath(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)  # what root may read
    assert open_source(f"folder:{folder}", "train").classes == ("cat", "dog", "eel")
    (folder / "train" / "cat" / "deeper").mkdir()
    for split in ("train", "unlabelled"):
        with pytest.raises(PermissionError, match=f"Permission denied: '{locked}'"):
            open_source(f"folder:{folder}", split)


def test_a_name_that_is_no_utf8_is_named(folder):
    name = os.fsencode(folder / "train" / "cat") + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(b"no picture")
    source = open_source(f"folder:{folder}", "train")
    with pytest.raises(UnreadableImage, match=r"cannot read the image .*caf\\xe9.png: not a picture"):
        source.picture(4)


def test_a_class_whose_name_is_no_utf8_has_one_that_can_be_written(folder):
    for split in ("train", "test"):
        os.rename(os.fsencode(folder / split / "dog"), os.fsencode(folder / split) + b"/caf\xe9")
    for split in ("train", "test"):
        source = open_source(f"folder:{folder}", split)
        assert source.classes == ("caf\\xe9", "cat", "eel") and 0 in source.labels


def test_all_pictures_of_a_folder_without_train_and_test(tmp_path):
    for name, count in (("a", 1), ("b", 3), ("c", 0)):
        (tmp_path / name).mkdir()
        for number in range(count):
            write_picture(tmp_path / name / f"{number}.png", number)
    source = open_source(f"folder:{tmp_path}", "all")
    assert (source.classes, source.labels.tolist()) == (("a", "b", "c"), [0, 1, 1, 1])
    with pytest.raises(FileNotFoundError, match="a class needs two pictures or more"):
        open_source(f"folder:{tmp_path}", "test")
    with pytest.raises(ValueError, match="all pictures together need a folder without train and test. Received: 'sh"):
        open_source("shapes", "all")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="all pictures together need a folder without train and test. Received: '/"):
        open_source(f"folder:{tmp_path}", "all")


def test_a_pipe_in_a_list_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="cannot read the image .*pipe.jpg: it is no regular file"):
        open_file(str(tmp_path / "pipe.jpg"), 3)


def test_texts_that_are_no_utf8_are_named_and_tables_take_such_names(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"caf\xe9.png\n")
    with pytest.raises(ValueError, match="list.txt must be a text in UTF-8"):
        files_of(str(listed))
    with Results(str(tmp_path / "out"), "evaluate", Evaluate(), "model", "data") as folder:
        folder.write_table("t.csv", ["class"], [[os.fsdecode(b"caf\xe9")]])
    assert "caf\\udce9" in (tmp_path / "out" / "t.csv").read_text()


def test_copies_of_a_set_have_one_fingerprint_and_others_another(folder, tmp_path_factory):
    def fingerprints(change):
        copy = tmp_path_factory.mktemp(change.__name__) / "elsewhere"
        shutil.copytree(folder, copy)
        change(copy / "train")
        return {split: open_source(f"folder:{copy}", split).fingerprint for split in ("train", "unlabelled", "test")}

    def none(train):
        """The same pictures."""

    def fewer(train):
        next(iter(sorted((train / "cat").iterdir()))).unlink()

    def renamed(train):
        file = next(iter(sorted((train / "cat").iterdir())))
        file.rename(file.with_stem("aaa"))

    def moved(train):
        file = next(iter(sorted((train / "cat").iterdir())))
        file.rename(train / "dog" / f"moved{file.suffix}")

    ours = {split: open_source(f"folder:{folder}", split).fingerprint for split in ("train", "unlabelled", "test")}
    assert fingerprints(none) == ours and len(set(ours.values())) == 3
    for change in (fewer, renamed, moved):
        theirs = fingerprints(change)
        assert theirs["test"] == ours["test"]
        assert theirs["train"] != ours["train"] and theirs["unlabelled"] != ours["unlabelled"]


@pytest.mark.parametrize("keep", [False, True])
def test_pictures_that_are_not_kept_are_checked_by_their_headers(folder, keep, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (200, 210, 3), "uint8")
    cut, empty = folder / "test" / "cat" / "0.png", folder / "test" / "dog" / "1.png"
    Image.fromarray(noise).save(cut)
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-100])  # behind the header, which is all that is looked at
    empty.write_bytes(b"")
    read, bytes_of = [], decode._bytes_of
    monkeypatch.setattr(decode, "_bytes_of", lambda *asked: read.append(bytes_of(*asked)) or read[-1])
    source = open_source(f"folder:{folder}", "test", keep=keep)
    bad = "2 that are not" if keep else "1 that are not"
    with pytest.raises(UnreadableImage, match=f"must be readable. Received: {bad}: .*1.png: it is empty"):
        require_readable(source, print, workers=1)
    longest = max(map(len, read))
    assert longest == (len(whole) - 100 if keep else decode.HEADER)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp"])
def test_sizes_by_headers_are_those_of_the_pictures(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (200, 210, 3), "uint8")
    Image.fromarray(noise).save(tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > decode.HEADER
    assert decode.size_of(tmp_path / f"a{suffix}") == (200, 210)
