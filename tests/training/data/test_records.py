import json
import os
import pathlib
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest

from keras_convnextv2 import whole
from tests.training.data.conftest import batches_of, write_picture
from training import pack as pack_module
from training.data import UnreadableImage, evaluation_batches, open_source, require_readable, take_per_class
from training.data.picture_source import PictureSource
from training.data.records import MANIFEST, UNFINISHED, Shards
from training.pack import LOCK, check, pack
from training.workdir import locked

SPLITS = ("train", "test", "unlabelled")


def say(text, progress=False):
    pass


def packed(folder, to, **options):
    """The packed folder: of its fixture, five files of three training pictures and two of three test pictures."""
    pack(f"folder:{folder}", to, **{"shard_size": 3, "workers": 2, "say": say, **options})
    return to


@pytest.fixture
def records(folder, tmp_path_factory):
    return packed(folder, tmp_path_factory.mktemp("packed") / "set")


def assert_same_pictures(source, other):
    assert (source.count, source.classes, source.channels) == (other.count, other.classes, other.channels)
    for index in range(source.count):
        (picture, label), (twin, twin_label) = source.opened(index), other.opened(index)
        np.testing.assert_array_equal(picture.array, twin.array)
        assert label == twin_label
    if source.labels is None:
        assert other.labels is None
    else:
        np.testing.assert_array_equal(source.labels, other.labels)


def assert_same_batches(run, other):
    for batch, twin in zip(run, other, strict=True):
        assert batch.keys() == twin.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], twin[key])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_packed_pictures_are_those_of_the_folder(folder, records, split, keep):
    source, other = (open_source(f"{kind}", split, keep=keep) for kind in (f"folder:{folder}", f"records:{records}"))
    assert_same_pictures(source, other)


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_packed_pictures_make_the_batches_of_the_folder(folder, records, processes):
    sources = [open_source(spec, "train", keep=False) for spec in (f"folder:{folder}", f"records:{records}")]
    options = {"batch_size": 4, "seed": 5, "first_step": 2, "steps": 6, "image_size": (16, 12), "mask": (12, 5)}
    assert_same_batches(*(batches_of(source, processes=processes, **options) for source in sources))
    options = {"batch_size": 4, "image_size": (16, 12), "crop_fraction": 0.875}
    assert_same_batches(*(evaluation_batches(source, **options) for source in sources))


def test_a_folder_without_train_and_test_is_divided_as_it_is_unpacked(tmp_path):
    for name in ("ant", "bee"):
        for number in range(12):
            write_picture(tmp_path / "in" / name / f"{number}.png", [len(name), number])
    packed(tmp_path / "in", tmp_path / "set", validation_split=0.3)
    for split in ("train", "test"):
        source = open_source(f"folder:{tmp_path / 'in'}", split, validation_split=0.3)
        assert_same_pictures(source, open_source(f"records:{tmp_path / 'set'}", split))


@pytest.mark.parametrize("deep", [False, True])
def test_pictures_without_classes(tmp_path, deep):
    for number in range(5):
        write_picture(tmp_path / "in" / ("deep/er" if deep else "") / f"{number}.png", number)
    packed(tmp_path / "in", tmp_path / "set", unlabelled=deep)
    source = open_source(f"records:{tmp_path / 'set'}", "unlabelled")
    assert_same_pictures(source, open_source(f"folder:{tmp_path / 'in'}", "unlabelled"))
    with pytest.raises(ValueError, match=r"train pictures need a split train. Received: records:.*, which has unlabel"):
        open_source(f"records:{tmp_path / 'set'}", "train")


def test_names_that_are_no_utf8_are_packed(folder, tmp_path):
    strange = os.fsencode(folder / "train" / "cat") + b"/caf\xe9\n.png"
    with open(strange, "wb") as file:
        file.write(b"no picture")
    source = open_source(f"records:{packed(folder, tmp_path / 'set')}", "train")
    with pytest.raises(
        UnreadableImage, match=r"cannot read the image train/cat/caf\\xe9 .png, record 2 of .*: not a pi"
    ):
        source.picture(4)


def test_a_number_per_class_is_that_of_the_folder(folder, records):
    sources = [open_source(spec, "train") for spec in (f"folder:{folder}", f"records:{records}")]
    assert_same_pictures(*(take_per_class(source, 3, seed=1) for source in sources))


def test_the_manifest_counts_and_sums(folder, records):
    manifest = json.loads((records / MANIFEST).read_text())
    assert manifest["classes"] == ["cat", "dog", "eel"] and manifest["data"] == f"folder:{folder}"
    assert {name: split["count"] for name, split in manifest["splits"].items()} == {"train": 15, "test": 6}
    files = [file for split in manifest["splits"].values() for file in split["files"]]
    assert [file["records"] for file in files] == [3] * 7
    assert {*os.listdir(records)} == {f["name"] for f in files} | {
        MANIFEST,
        LOCK,
        "train.labels.npy",
        "test.labels.npy",
    }
    check(records, say=say)


class Killed(BaseException):
    """In place of the end of a process: nobody catches it."""


def killed_at(monkeypatch, when, call):
    """Runs `call` until the `when`-th file would get its name, then leaves everything as it lies; whether it came so
    far."""
    real, seen = os.replace, []

    def replace(source, destination):
        seen.append(destination)
        if len(seen) > when:
            raise Killed
        real(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(whole.os, "replace", replace)
        patch.setattr(pathlib.Path, "unlink", lambda path, missing_ok=False: None)  # a dead process tidies nothing up
        try:
            call()
        except Killed:
            return True
    return False


def test_a_killed_call_goes_on_whenever_it_was_killed(folder, records, tmp_path, monkeypatch):
    expected = {name: (records / name).read_bytes() for name in os.listdir(records) if name[0] != "."}
    for when in range(100):
        to = tmp_path / str(when)
        if not killed_at(monkeypatch, when, lambda to=to: packed(folder, to, workers=1)):
            break
        with pytest.raises((ValueError, FileNotFoundError), match="packed to the end|must be|that python -m training"):
            open_source(f"records:{to}", "train")
        there = {path: path.stat().st_mtime_ns for path in to.glob("*.array_record")}
        plan = to / UNFINISHED
        files = json.loads(plan.read_text())["splits"] if plan.exists() else {}
        done = {file["name"] for split in files.values() for file in split["files"] if "sha256" in file}
        packed(folder, to)
        assert {name: (to / name).read_bytes() for name in os.listdir(to) if name[0] != "."} == expected
        assert all((to / name).stat().st_mtime_ns == there[to / name] for name in done)  # what was whole is kept
    assert when == 7 + 2 + 1 + 2 * 7 + 1  # lists, labels, the plan; each file and the plan with it; the manifest


def test_an_unfinished_set_says_how_to_go_on(folder, tmp_path, monkeypatch):
    to = tmp_path / "set"
    assert killed_at(monkeypatch, 7 + 2 + 1 + 2 * 2, lambda: packed(folder, to, workers=1))
    command = rf"{sys.executable} -m training.pack --data folder:{folder} --to {to} --shard_size=3 --validation_split="
    with pytest.raises(ValueError, match=rf"^records:PATH must be packed to the end.*with [12] of 7 files.*{command}"):
        open_source(f"records:{to}", "train")


def test_a_picture_that_went_away_stops_the_packing_and_is_named(folder, tmp_path, monkeypatch):
    to, gone = tmp_path / "set", folder / "train" / "dog" / "2.png"
    assert killed_at(monkeypatch, 7 + 2 + 1, lambda: packed(folder, to, workers=1))
    gone.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"Received: {gone}, which has gone. Put it back, or remove '{to}' and"
    ):
        packed(folder, to)
    write_picture(gone, 0)
    packed(folder, to)


def test_two_cannot_pack_into_one_folder(folder, tmp_path):
    held = locked(tmp_path / LOCK, "--to")
    with pytest.raises(
        ValueError, match=rf"--to must not be in use. Received: '{tmp_path}', of process {os.getpid()} "
    ):
        packed(folder, tmp_path)
    held.close()
    packed(folder, tmp_path)


def test_a_packed_set_is_no_class_of_its_own_pictures(folder, tmp_path):
    for kind in ("", "train", "test"):
        there = folder / kind if kind else folder / "train"  # as a set of its own: one folder a class
        with pytest.raises(ValueError, match="--to must not lie among the classes of --data, of which it would be one"):
            packed(folder if kind else there, there / "packed")
        assert not (there / "packed").exists()
    packed(folder / "train", folder / "train" / ".packed")
    packed(folder / "train", folder / "train" / "cat" / "packed")
    packed(folder, folder / "packed")  # beside train and test
    for split in ("train", "test"):
        open_source(f"folder:{folder}", split)


def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch):
    class Writer:
        def __init__(self, path, options):
            pathlib.Path(path).touch()

        def write(self, record):
            raise RuntimeError("write() failed: No space left on device; writing x")

        def close(self):
            pass

    monkeypatch.setattr(pack_module, "module", lambda: type("module", (), {"ArrayRecordWriter": Writer}))
    with pytest.raises(OSError, match=r"^\[Errno 28\] the disk is full, nothing was written: .*train-0000\d-of-00005"):
        packed(folder, tmp_path / "set")
    monkeypatch.undo()
    packed(folder, tmp_path / "set")


def damaged(records, name, number):
    """Changes one byte of a picture of a file: the start of its `number`-th record is found by its JSON."""
    path = records / name
    data = bytearray(path.read_bytes())
    position = -1
    for _ in range(number + 1):
        position = data.index(b'{"name"', position + 1)
    data[position + 200] ^= 255
    path.write_bytes(data)


def test_a_damaged_record_is_named_by_file_and_number(records):
    damaged(records, "train-00001-of-00005.array_record", 2)
    source = open_source(f"records:{records}", "train", keep=False)
    message = r"cannot read record 2 of .*train-00001-of-00005.array_record: .*hash mismatch"
    with pytest.raises(UnreadableImage, match=rf"^{message}[^\n]*$"):
        source.picture(5)
    for index in (4, 6):
        source.picture(index)
    with pytest.raises(UnreadableImage, match=message):
        require_readable(source, say)
    with pytest.raises(ValueError, match="must have its checksum. Received: 1 without: train-00001-of-00005.array_rec"):
        check(records, say=say)
    run = batches_of(source, batch_size=15, seed=0, first_step=0, steps=1, image_size=(8, 8))
    assert run[0]["substituted"].sum() == 1


def test_cut_and_missing_files_are_refused_at_once(records):
    path = records / "train-00003-of-00005.array_record"
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[:-1])
    size = f"{len(whole_file):,} bytes. Received: {len(whole_file) - 1:,}"
    with pytest.raises(ValueError, match=rf"train-00003-of-00005.array_record must have {size}\."):
        open_source(f"records:{records}", "train")
    path.unlink()
    with pytest.raises(ValueError, match=r"train-00003-of-00005.array_record must have .* Received: no such file"):
        open_source(f"records:{records}", "unlabelled")


def test_other_folders_and_damaged_manifests_are_refused(folder, records, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"needs a folder that python -m training.pack .*Received: '{folder}'"):
        open_source(f"records:{folder}", "train")
    with pytest.raises(ValueError, match=r"--data must be folder:PATH, .*Received: 'shapes'"):
        pack("shapes", tmp_path / "set", say=say)
    with pytest.raises(ValueError, match=r"--to must not hold another set. Received: .*--shard_size=3 "):
        packed(folder, records, shard_size=4)
    (records / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="manifest.json' must say what a packed set holds. Received: a damaged file"):
        open_source(f"records:{records}", "train")


def test_workers_are_sent_names_alone(records):
    count = 14_197_122
    shards = Shards([f"train-{n:05d}-of-00256.array_record" for n in range(256)], [count // 256] * 255 + [count % 256])
    assert len(cloudpickle.dumps(shards)) < 20_000
    source = open_source(f"records:{records}", "train", keep=False)
    source.picture(0)
    sent = cloudpickle.loads(cloudpickle.dumps(source))
    assert isinstance(sent, PictureSource)
    assert_same_pictures(source, sent)


@pytest.mark.slow
def test_the_program_packs_and_goes_on(folder, tmp_path):
    def run(*flags):
        command = [sys.executable, "-m", "training.pack", *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[3])

    done = run("--data", f"folder:{folder}", "--to", str(tmp_path / "set"))
    assert done.returncode == 0 and "packed: 15 train, 6 test. Take it with --data records:" in done.stdout
    assert run("--check", "--to", str(tmp_path / "set")).returncode == 0
    failed = run("--data", "shapes", "--to", str(tmp_path / "other"))
    assert failed.returncode == 1 and "error: --data must be folder:PATH" in failed.stderr


def test_a_share_that_packing_did_not_hold_out_is_refused(folder, tmp_path_factory):
    divided = packed(folder / "train", tmp_path_factory.mktemp("divided") / "set", validation_split=0.4)
    counts = [open_source(f"records:{divided}", "test", validation_split=share).count for share in (None, 0.4)]
    assert counts[0] == counts[1] == open_source(f"folder:{folder / 'train'}", "test", validation_split=0.4).count
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"must be 0.4, by which records:.* Received: 0.1. Try --set .*=0.4"):
            open_source(f"records:{divided}", split, validation_split=0.1)
    assert open_source(f"records:{divided}", "unlabelled", validation_split=0.1).count


def test_a_train_and_a_test_of_its_own_know_no_share(records):
    assert open_source(f"records:{records}", "test", validation_split=0.25).count == 6


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "too many", "removed"])
def test_damaged_labels_name_their_file(records, damage):
    file = records / "train.labels.npy"
    whole = file.read_bytes()
    if damage == "removed":
        file.unlink()
    elif damage == "too many":
        np.save(file, np.zeros(16, "int32"))
    else:
        file.write_bytes({"empty": b"", "cut": whole[:-3], "other": b"labels"}[damage])
    source = open_source(f"records:{records}", "train")
    with pytest.raises(ValueError, match=r"train.labels.npy must hold int32 \(15,\). Received: .* Copy it again"):
        source.labels  # noqa: B018
