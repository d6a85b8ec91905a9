import dataclasses
import errno
import importlib.util
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from absl import flags

import keras_convnextv2 as kc
from keras_convnextv2.layers.preprocessing import Preprocessing
from tests.training.data.conftest import GOLDEN, write_picture
from tests.training.data.test_label_maps import write_map, write_pair
from tests.training.data.test_objects import coco_tree, write_coco
from training import ablate, checkpoints, detect, finetune, pretrain, program, segment, workdir
from training import quiet as quiet_module
from training import run as run_module
from training.configs import Detect, Finetune, Pretrain, Segment
from training.data import (
    ColorJitter,
    PictureSource,
    RandAugment,
    UnreadableImage,
    evaluation_batches,
    open_source,
    say_lacking_classes,
    training_batches,
)
from training.data.augmentation import evaluation_picture
from training.devices import ONE
from training.fields import as_flags, with_settings
from training.loop import Stopped
from training.pack import pack
from training.recipes import RECIPES, following
from training.run import averaging, once, run
from training.trained import open_trained

DATA = "shapes:24"
RECORD = '{"program": "pretrain", "data": "shapes:24", "recipe": %s}'
TINY = {
    **{"size": "atto", "depths": (1, 2), "dims": (8, 12), "stem_patch_size": 2, "image_size": (16, 12)},
    **{"batch_size": 8, "epochs": 2, "crop": "none", "base_lr": 0.03, "log_every": 2},
}
PRETRAIN = Pretrain(**TINY, warmup_epochs=0.5, decoder_dim=8)
FINETUNE = Finetune(**TINY, layer_decay=0.9, drop_path_rate=0.3, ema=0.9, head_init_scale=1.0)
SEGMENT = Segment(size="atto", image_size=(32, 48))
DETECT = Detect(size="atto", image_size=(32, 48), filter_empty=False, masks=False)


def quiet(text, progress=False):
    """Takes the lines of a run."""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    lines = []
    results = run(pretrain.prepare, PRETRAIN, str(folder), DATA, say=lambda text, progress=False: lines.append(text))
    return folder, results, lines


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, pretrained):
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    config = dataclasses.replace(FINETUNE, init=str(pretrained[0]))
    return folder, config, run(finetune.prepare, config, str(folder), DATA, say=quiet)


def test_pretraining_leaves_a_model_weights_and_its_recipe(pretrained):
    folder, results, lines = pretrained
    names = {path.name for path in folder.iterdir()}
    assert {"model.keras", "fcmae.weights.h5", "recipe.json", "results.json", "train.csv", "checkpoints"} <= names
    assert "evaluation.csv" not in names
    record = json.loads((folder / "recipe.json").read_text())
    assert (record["recipe"]["mask_ratio"], record["data"], record["program"]) == (0.6, DATA, "pretrain")
    assert results["steps"] == 6
    assert np.isfinite(results["loss"])
    assert results["model"] == str(folder / "model.keras") and any("--set init=" in line for line in results["next"])
    assert any(line.startswith("step 6/6  loss") for line in lines)
    assert any(
        "24 images of shapes (unlabelled) at 16 x 12 pixels, 6 steps of 8 (3 an epoch)" in line for line in lines
    )


def test_pretrained_backbone_starts_the_classifier(pretrained):
    saved = keras.models.load_model(pretrained[0] / "model.keras")
    classifier, _ = finetune.build(dataclasses.replace(FINETUNE, init=str(pretrained[0])), 10, quiet)
    theirs = {v.path: keras.ops.convert_to_numpy(v) for v in saved.trainable_variables}
    ours = {v.path: keras.ops.convert_to_numpy(v) for v in classifier.trainable_variables}
    assert set(ours) - set(theirs) == {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_the_saved_classifier_knows_its_names_and_goes_on(finetuned):
    folder, config, results = finetuned
    model = keras.models.load_model(folder / "model.keras")
    assert list(kc.class_names(model)) == results["classes"]
    source = open_source(DATA, "test")
    (rows,) = evaluation_batches(source, batch_size=source.count, image_size=config.image_size, crop_fraction=0.875)
    data = rows["images"], rows["labels"]
    _, accuracy = model.evaluate(*data, verbose=0)
    assert 100 * accuracy == pytest.approx(max(results["top_1"], results["top_1_average"]), abs=1e-4)
    assert np.isfinite(model.fit(*data, verbose=0).history["loss"]).all()


def test_finetuning_reports_and_saves_the_average(finetuned):
    folder, config, results = finetuned
    assert json.loads((folder / "results.json").read_text())["top_1"] == results["top_1"]
    with np.load(folder / "checkpoints" / "step_00000006.npz") as state:
        averages = [state[key] for key in sorted(state.files) if key.startswith("average/")]
        weights = [state[key] for key in sorted(state.files) if key.startswith("weights/")]
    saved = keras.models.load_model(folder / "model.keras")
    for value, variable in zip(averages, saved.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
    source = open_source(DATA, "test")
    images = np.stack([evaluation_picture(source.opened(i)[0], config.image_size, 0.875) for i in range(source.count)])
    for name, kept in {"top_1_average": averages, "top_1": weights}.items():
        for value, variable in zip(kept, saved.trainable_variables, strict=True):
            variable.assign(value)
        right = np.argmax(saved.predict_on_batch(images), -1) == source.labels
        assert results[name] == 100.0 * int(np.sum(right)) / source.count, name


def test_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(finetuned, tmp_path):
    folder, config, results = finetuned
    resumed = tmp_path / "resumed"
    shutil.copytree(folder, resumed)
    (resumed / "checkpoints" / "step_00000006.npz").unlink()
    again = run(finetune.prepare, config, str(resumed), DATA, resume=True, say=quiet)
    assert (again["top_1"], again["top_1_average"]) == (results["top_1"], results["top_1_average"])
    ours, theirs = (np.load(path / "checkpoints" / "step_00000006.npz") for path in (resumed, folder))
    assert ours.files == theirs.files
    for key in ours.files:
        assert ours[key].tobytes() == theirs[key].tobytes(), key


def test_a_resume_does_not_need_the_weights_it_began_from(pretrained, tmp_path):
    folder, init = tmp_path / "run", tmp_path / "pretrained"
    shutil.copytree(pretrained[0], init)
    config = dataclasses.replace(FINETUNE, init=str(init), epochs=1)
    run(finetune.prepare, config, str(folder), DATA, say=quiet)
    shutil.rmtree(init)
    longer = dataclasses.replace(config, epochs=2)
    assert run(finetune.prepare, longer, str(folder), DATA, resume=True, say=quiet)["steps"] == 6
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["init"] == str(init)
    for path in checkpoints.steps(folder / "checkpoints").values():
        path.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="pretrained"):  # it would begin again
        run(finetune.prepare, longer, str(folder), DATA, resume=True, say=quiet)


def test_a_run_goes_on_on_another_backend_with_the_same_state_and_says_so(pretrained, tmp_path):
    ours, theirs = keras.backend.backend(), "jax" if keras.backend.backend() == "torch" else "torch"
    pytest.importorskip(theirs)
    folder = tmp_path / "resumed"
    shutil.copytree(pretrained[0], folder)
    (folder / "checkpoints" / "step_00000006.npz").unlink()
    words = [sys.executable, "-m", "training.pretrain", "--resume", "--workdir", str(folder)]
    answer = subprocess.run(words, env={**os.environ, "KERAS_BACKEND": theirs}, capture_output=True, text=True)
    assert f"it ran on {ours}: {theirs} goes on with the same state and pictures" in answer.stdout, answer.stderr[
        -2000:
    ]
    states = [np.load(path / "checkpoints" / "step_00000006.npz") for path in (pretrained[0], folder)]
    assert states[0].files == states[1].files
    for key in set(states[0].files) - {"meta"}:
        np.testing.assert_allclose(states[1][key], states[0][key], rtol=0, atol=1e-5, err_msg=key)


@pytest.fixture(scope="module", params=["pretrained", "finetuned"])
def in_float16(request, tmp_path_factory):
    """(prepare, config, folder) of a run in float16 whose loss scale doubles every three steps; the float32 folder."""
    like = request.getfixturevalue(request.param)
    prepare, config = (pretrain.prepare, PRETRAIN) if request.param == "pretrained" else (finetune.prepare, like[1])
    config = dataclasses.replace(config, dtype="mixed_float16")
    folder = tmp_path_factory.mktemp("float16") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.steps.step.SCALE_STEPS", 3)
        run(prepare, config, str(folder), DATA, say=quiet)
        yield prepare, config, folder, like[0]


def arrays_of(folder, step):
    """{key: array} of a checkpoint."""
    with np.load(folder / "checkpoints" / f"step_{step:08}.npz") as file:
        return {key: file[key] for key in file.files if key != "meta"}


def test_float16_trains_as_float32_does(in_float16):
    """Losses to a thousandth; weights, on average, to a fiftieth of the way that they went in the second half.

    On average: where a gradient is next to nothing, the optimizer makes a whole step of its rounding.
    """
    *_, folder, like = in_float16
    ours, theirs = (json.loads((path / "results.json").read_text()) for path in (folder, like))
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-3)
    half, whole, other = (arrays_of(*of) for of in ((like, 3), (like, 6), (folder, 6)))
    for group in {key.split("/")[0] for key in whole} & {"weights", "average"}:
        start, end, ours = (
            np.concatenate([of[key].ravel() for key in whole if key.startswith(group)]) for of in (half, whole, other)
        )
        assert 0 < np.abs(ours - end).mean() < np.abs(start - end).mean() / 50, group


def test_the_scale_of_the_loss_goes_on_with_a_resumed_run(in_float16, tmp_path):
    prepare, config, folder, _ = in_float16
    whole = arrays_of(folder, 6)
    scales = [{key: of[key].item() for key in of if key.startswith("scale/")} for of in (arrays_of(folder, 3), whole)]
    assert [list(scale.values()) for scale in scales] == [[2.0**16, 0], [2.0**17, 0]]
    shutil.copytree(folder, tmp_path / "resumed")
    (tmp_path / "resumed" / "checkpoints" / "step_00000006.npz").unlink()
    run(prepare, config, str(tmp_path / "resumed"), DATA, resume=True, say=quiet)
    again = arrays_of(tmp_path / "resumed", 6)
    assert {key: value.tobytes() for key, value in again.items()} == {k: v.tobytes() for k, v in whole.items()}


def test_resuming_an_ended_run_keeps_its_losses(pretrained, tmp_path):
    folder = tmp_path / "ended"
    shutil.copytree(pretrained[0], folder)
    before = json.loads((folder / "results.json").read_text())
    again = run(pretrain.prepare, PRETRAIN, str(folder), DATA, resume=True, say=quiet)
    assert again["steps"] == before["steps"] and len(again["losses"]) == len(before["losses"])
    assert [again[key] for key in ("first_loss", "loss")] == pytest.approx(
        [before[key] for key in ("first_loss", "loss")], rel=1e-5
    )
    assert again["seconds"] > 0


def test_a_batch_larger_than_the_set_leaves_the_folder_free(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at most the number of images, 24. Received: 1000"):
        run(pretrain.prepare, dataclasses.replace(PRETRAIN, batch_size=1000), str(tmp_path / "run"), DATA, say=quiet)
    assert not (tmp_path / "run").exists()


def test_a_used_workdir_is_refused_and_untouched(pretrained):
    folder = pretrained[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match="must not hold a run already.*Use --resume to go on with it, or another"):
        run(pretrain.prepare, PRETRAIN, str(folder), DATA, say=quiet)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("name", ["step_00000006.npz", "best.npz"])
def test_checkpoints_of_an_earlier_run_are_refused_and_untouched(tmp_path, name):
    left = tmp_path / "run" / "checkpoints" / name
    left.parent.mkdir(parents=True)
    left.write_bytes(b"earlier")
    with pytest.raises(ValueError, match="must not hold checkpoints of an earlier run.*checkpoints'.*Remove them"):
        run(pretrain.prepare, PRETRAIN, str(tmp_path / "run"), DATA, say=quiet)
    assert left.read_bytes() == b"earlier"


def test_a_folder_that_cannot_be_written_is_one_line_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=f"Not a directory: '{tmp_path}/file/run'"):
        run(pretrain.prepare, PRETRAIN, str(tmp_path / "file" / "run"), DATA, say=quiet)

    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(workdir, "open", refused, raising=False)  # what root may write
    with pytest.raises(OSError, match=f"Permission denied: '{tmp_path}/run/lock'"):
        run(pretrain.prepare, PRETRAIN, str(tmp_path / "run"), DATA, say=quiet)


def test_two_runs_cannot_share_a_folder(pretrained):
    folder = pretrained[0]
    program = "import sys, time; from training.workdir import locked; import pathlib; "
    program += "held = locked(pathlib.Path(sys.argv[1]), '--workdir'); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"--workdir must not be in use. Received: .*of process {other.pid} on"):
            run(pretrain.prepare, PRETRAIN, str(folder), DATA, resume=True, say=quiet)
        other.kill()  # what a killed process held is free
    run(pretrain.prepare, PRETRAIN, str(folder), DATA, resume=True, say=quiet)


def test_a_folder_that_another_run_took_meanwhile_is_refused(tmp_path):
    first, second = (workdir.Workdir(tmp_path, "pretrain", PRETRAIN, data, False) for data in (DATA, "shapes:25"))
    with first:
        pass
    with pytest.raises(ValueError, match="must not hold a run already"), second:
        pass
    assert json.loads((tmp_path / "recipe.json").read_text())["data"] == DATA


def test_a_full_disk_is_one_line_for_the_lock_too(tmp_path, monkeypatch):
    class Full:
        """A file on which nothing reaches the disk."""

        def __init__(self, path, *_, **__):
            self.file = path.open("a+")
            self.fileno, self.truncate, self.close = self.file.fileno, self.file.truncate, self.file.close

        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdir, "open", Full, raising=False)
    with pytest.raises(OSError, match="the disk is full, nothing was written: .*lock"):
        run(pretrain.prepare, PRETRAIN, str(tmp_path / "run"), DATA, say=quiet)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"program": "pre', *(RECORD % recipe for recipe in ("null", "{}", "[]", "3"))]
)
def test_a_damaged_recipe_is_named(pretrained, tmp_path, content):
    folder = tmp_path / "damaged"
    shutil.copytree(pretrained[0], folder)
    (folder / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match="recipe.json' must hold the recipe of a run. Received: a damaged file"):
        run(pretrain.prepare, PRETRAIN, str(folder), DATA, resume=True, say=quiet)
    with pytest.raises(ValueError, match="recipe.json' must hold the recipe of a run. Received: a damaged file"):
        workdir.recorded(folder, Pretrain)


def test_a_folder_whose_name_is_no_utf_8_is_refused_before_it_is_made(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"--workdir must have a name in UTF-8: .* Received: '.*caf\\udce9'"):
        run(pretrain.prepare, PRETRAIN, str(folder), DATA, say=quiet)
    assert not folder.exists()


@pytest.mark.parametrize("key, value", [("program", 3), ("data", 3), ("versions", 3), ("versions", None)])
def test_a_recipe_with_a_damaged_field_is_named(pretrained, tmp_path, key, value):
    record = json.loads((pretrained[0] / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({**record, key: value}))
    with pytest.raises(ValueError, match="recipe.json' must hold the recipe of a run. Received: a damaged file"):
        workdir.recorded(tmp_path, Pretrain)


@pytest.mark.parametrize(
    "change, message",
    [({"size": 3}, "size must be"), ({"size": None}, "argument: 'size'"), ({"image_size": [None, [16]]}, "image_size")],
)
def test_a_recipe_whose_values_cannot_be_is_named(pretrained, tmp_path, change, message):
    record = json.loads((pretrained[0] / "recipe.json").read_text())
    recipe = {key: value for key, value in {**record["recipe"], **change}.items() if (key, value) != ("size", None)}
    (tmp_path / "recipe.json").write_text(json.dumps({**record, "recipe": recipe}))
    with pytest.raises(ValueError, match=f"recipe.json' must hold the recipe of a run. Received: .*{message}"):
        workdir.recorded(tmp_path, Pretrain)


@pytest.mark.parametrize("content", ["", "[]", '{"steps": '])
def test_damaged_results_are_named(pretrained, tmp_path, content):
    folder = tmp_path / "damaged"
    shutil.copytree(pretrained[0], folder)
    assert once(pretrain.prepare, PRETRAIN, folder, DATA, quiet)["steps"] == 6
    (folder / "results.json").write_text(content)
    for read in (lambda: once(pretrain.prepare, PRETRAIN, folder, DATA, quiet), lambda: open_trained(str(folder))):
        with pytest.raises(ValueError, match="damaged/results.json' must hold the results of a run. Received: a damag"):
            read()


def test_a_run_without_a_whole_checkpoint_begins_again_and_says_so(pretrained, tmp_path):
    folder, lines = tmp_path / "damaged", []
    shutil.copytree(pretrained[0], folder)
    for file in (folder / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    results = run(pretrain.prepare, PRETRAIN, str(folder), DATA, resume=True, say=say)
    assert "resuming at step 0: there is no whole checkpoint" in lines
    assert results["losses"] == pretrained[1]["losses"]
    assert (folder / "checkpoints" / "step_00000006.npz").exists()


@pytest.mark.parametrize(
    "changes, data, message",
    [
        ({"base_lr": 0.5, "seed": 3}, DATA, r"other values for: base_lr 0.03 -> 0.5, seed 0 -> 3"),
        ({}, "shapes:25", "run's own data, 'shapes:24'. Received: 'shapes:25'"),
    ],
)
def test_resume_with_another_recipe_names_the_difference(pretrained, changes, data, message):
    with pytest.raises(ValueError, match=message):
        run(
            pretrain.prepare, dataclasses.replace(PRETRAIN, **changes), str(pretrained[0]), data, resume=True, say=quiet
        )


def test_a_run_goes_on_in_smaller_parts(finetuned, tmp_path):
    folder = tmp_path / "parts"
    shutil.copytree(finetuned[0], folder)
    (folder / "checkpoints" / "step_00000006.npz").unlink()
    smaller = {"accumulation": 2, "evaluation_batch_size": 5, "keep_checkpoints": 1}
    config = dataclasses.replace(finetuned[1], **smaller)
    assert run(finetune.prepare, config, str(folder), DATA, resume=True, say=quiet)["steps"] == 6
    assert [path.name for path in (folder / "checkpoints").glob("step_*")] == ["step_00000006.npz"]


def test_resume_by_the_other_program_is_refused(pretrained):
    with pytest.raises(ValueError, match="run's own program, 'pretrain'. Received: 'finetune'"):
        run(finetune.prepare, FINETUNE, str(pretrained[0]), DATA, resume=True, say=quiet)


def test_resume_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--resume needs a --workdir that holds a run.*Leave --resume out"):
        run(pretrain.prepare, PRETRAIN, str(tmp_path / "none"), DATA, resume=True, say=quiet)
    assert not (tmp_path / "none").exists()


def test_classes_are_checked_before_training(tmp_path):
    config = dataclasses.replace(FINETUNE, classes=7)
    with pytest.raises(ValueError, match=r"classes must be 10, those of shapes \(train\). Received: 7"):
        run(finetune.prepare, config, str(tmp_path / "run"), DATA, say=quiet)
    assert not (tmp_path / "run").exists()


def test_labels_per_class_limits_the_training_pictures_only():
    train, test = finetune.open_labelled(dataclasses.replace(FINETUNE, labels_per_class=1), DATA, quiet)
    assert (train.count, test.count) == (10, 24)


def test_a_head_to_keep_must_be_there(pretrained):
    config = dataclasses.replace(FINETUNE, init=str(pretrained[0]), keep_head=True)
    with pytest.raises(ValueError, match="keep_head needs weights with a head. Received: "):
        finetune.build(config, 10, quiet)


def kept_of(kind):
    """(program, its config without weights) with networks of two stages for three classes."""
    config = {key: TINY[key] for key in ("size", "depths", "dims", "stem_patch_size")}
    if kind is Segment:
        return segment, Segment(**config, head_channels=4, auxiliary_channels=4)
    if kind is Detect:
        heads = {f"{part}_dim": 4 for part in ("fpn", "rpn", "box", "mask")}
        return detect, Detect(**config, **heads)
    return finetune, FINETUNE


@pytest.mark.parametrize("kind", [Finetune, Segment, Detect])
def test_a_head_is_kept_for_the_classes_it_was_trained_on_alone(tmp_path, kind):
    program, config = kept_of(kind)
    names = ("cat", "dog", "fox")
    made = program.build(config, names, quiet)
    (made[0] if kind is Finetune else made).save(tmp_path / "model.keras")
    again = dataclasses.replace(config, init=str(tmp_path / "model.keras"), keep_head=True)
    for classes in (names, ("0", "1", "2")):
        program.build(again, classes, quiet)
    with pytest.raises(ValueError, match="class 1 is 'dog'. Received: 'fox' in the data; leave keep_head out"):
        program.build(again, ("cat", "fox", "dog"), quiet)
    program.build(dataclasses.replace(again, keep_head=False), ("cat", "fox", "dog"), quiet)


@pytest.mark.parametrize("damage", [b"", b"PK", b"no archive at all"])
def test_a_damaged_file_whose_head_is_to_be_kept_is_named(tmp_path, damage):
    init = tmp_path / "model.keras"
    init.write_bytes(damage)
    config = dataclasses.replace(FINETUNE, init=str(init), keep_head=True)
    with pytest.raises(ValueError, match="init must be a whole .keras file. Received: .*model.keras', "):
        finetune.require_kept_order(config, ("cat", "dog"))


def test_a_head_to_keep_whose_config_is_damaged_is_named(tmp_path):
    init = tmp_path / "model.keras"
    with zipfile.ZipFile(init, "w") as archive:
        archive.writestr("config.json", json.dumps({"classes": ["cat", "dog"]}))
    init.write_bytes(init.read_bytes().replace(b'"dog"', b'"dig"'))  # its checksum tells
    config = dataclasses.replace(FINETUNE, init=str(init), keep_head=True)
    with pytest.raises(ValueError, match="init must be a whole .keras file. Received: .*model.keras', Bad CRC"):
        finetune.require_kept_order(config, ("cat", "dog"))


@pytest.mark.parametrize("made, message", [(True, "has that run ended"), (False, "nothing.h5")])
def test_init_that_is_not_there(tmp_path, made, message):
    init = tmp_path / "nothing.h5"
    if made:
        init.mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        finetune.build(dataclasses.replace(FINETUNE, init=str(init)), 10, quiet)


def test_init_takes_what_load_weights_takes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(finetune.kc, "load_weights", lambda model, path, **_: asked.append(path) or Report())
    for init in ("imagenet", "hf:timm/convnextv2_atto.fcmae", str(tmp_path / "weights.safetensors")):
        finetune.build(dataclasses.replace(FINETUNE, init=init), 10, quiet)
        assert asked.pop() == init


class Report:
    untouched = ()


def test_held_out_pictures_that_cannot_be_read_are_all_named_before_training(tmp_path):
    for split in ("train", "test"):
        for number in range(8):
            write_picture(tmp_path / "data" / split / "a" / f"{number}.png", number)
    for number in (2, 5):
        (tmp_path / "data" / "test" / "a" / f"{number}.png").write_text("no picture")
    with pytest.raises(UnreadableImage, match=r"Received: 2 that are not: .*2.png: .*; .*5.png: [^\n]*$"):
        run(finetune.prepare, FINETUNE, str(tmp_path / "run"), f"folder:{tmp_path / 'data'}", say=quiet)
    assert not (tmp_path / "run").exists()


def test_what_is_odd_about_the_classes_is_said(tmp_path):
    lines = []
    for split, names in (("train", "ab"), ("test", "a")):
        for name in names:
            write_picture(tmp_path / split / name / "0.png", 0)
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    finetune.open_labelled(FINETUNE, f"folder:{tmp_path}", say)
    assert lines[0].endswith("has no picture of b: the accuracy says nothing about them")
    shutil.rmtree(tmp_path / "train" / "b")
    finetune.open_labelled(FINETUNE, f"folder:{tmp_path}", say)
    assert lines[1] == "there is one class alone, 'a': every answer will be right"


def maps_with(folder, split, value, names=("sky", "sea", "boat")):
    write_picture(folder / split / "images" / "0.png", 0, (32, 48))
    (folder / "classes.txt").write_text("\n".join(names))
    write_map(folder / split / "labels" / "0.png", np.array([[value, 255]] * 32).repeat(24, 1))


def objects_with(folder, split, of, names=("sky", "sea", "boat")):
    write_picture(folder / "images" / "a.png", 1, (24, 20))
    write_picture(folder / "images" / "b.png", 1, (24, 20))
    box = {"image_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
    crowd = {**box, "id": 2, "category_id": 3, "iscrowd": 1}
    rows = [{**box, "id": 1, "category_id": of + 1}, *([crowd] if len(names) > 2 else [])]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    write_coco(folder / "annotations" / f"{split}.json", rows, categories=categories)


@pytest.mark.parametrize(
    "module, config, arrange, what, alone",
    [
        (segment, SEGMENT, maps_with, "pixel of sky, boat: the mIoU", "every answer will be right"),
        (detect, DETECT, objects_with, "object of sky, boat: the AP", "every box that is found is of it"),
    ],
)
def test_classes_that_nothing_to_test_on_has_are_said(module, config, arrange, what, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "build", lambda *_: 1 / 0)  # all that follows is of no matter here
    more = {"names": ["sky"]}
    for folder, numbers, names in ((tmp_path / "three", (0, 1), {}), (tmp_path / "one", (0, 0), more)):
        for split, number in zip(("train", "val"), numbers, strict=True):
            arrange(folder, split, number, **names)
    said = []
    for folder in ("three", "one"):
        with pytest.raises(ZeroDivisionError):
            module.prepare(config, f"folder:{tmp_path / folder}", said.append, ONE)
    three = f"folder:{tmp_path / 'three'} (test) has no {what} says nothing about them"
    assert said == [three, f"there is one class alone, 'sky': {alone}"]


def test_of_many_classes_that_lack_a_few_are_named():
    said, source = [], PictureSource("it", None, 1, channels=3, classes=[f"c{n}" for n in range(9)])
    say_lacking_classes(source, np.array([8, 8]), said.append, "picture", "accuracy", "")
    say_lacking_classes(source, range(9), said.append, "picture", "accuracy", "")
    assert said == ["it has no picture of c0, c1, c2, c3, c4 and 3 more: the accuracy says nothing about them"]


def classes_in(folder):
    for number in range(12):
        write_picture(folder / "ab"[number % 2] / f"{number}.png", number)


def maps_in(folder):
    for number in range(12):
        write_pair(folder / "images", folder / "labels", f"{number}", number)


def objects_in(folder):
    coco_tree(folder, [])
    (folder / "annotations" / "val.json").unlink()


@pytest.mark.parametrize(
    "module, check, config, arrange, count",
    [
        (finetune, "require_readable", FINETUNE, classes_in, 2),
        (segment, "require_maps", SEGMENT, maps_in, 1),
        (detect, "require_objects", DETECT, objects_in, 1),
    ],
)
def test_a_division_of_ones_own_is_said(module, check, config, arrange, count, tmp_path, monkeypatch):
    arrange(tmp_path)
    said = []
    monkeypatch.setattr(module, check, lambda *_, **options: 1 / 0)  # all that follows is of no matter here
    config = dataclasses.replace(config, validation_split=0.05)
    with pytest.raises(ZeroDivisionError):
        module.prepare(config, f"folder:{tmp_path}", said.append, ONE)
    how = f"so {count} pictures are held out by their names (validation_split=0.05)"
    assert said == [f"folder:{tmp_path} (test): the folder has no such part, {how}"]
    with pytest.raises(ZeroDivisionError):
        module.prepare(config, DATA, said.append, ONE)
    assert len(said) == 1


def test_classes_that_differ_are_named_and_not_all_of_them(monkeypatch):
    def open_source(name, split, **_):
        classes = [f"c{i}" for i in range(9)] + ["z"] * (split == "train")
        classes = classes if split == "train" else classes[:2] + ["x"]
        return PictureSource(f"{name} ({split})", None, 1, channels=3, classes=classes)

    monkeypatch.setattr(finetune, "open_source", open_source)
    message = (
        r"must have the same classes in the same order. Received: 10 in tfds:set \(train\), c2, c3, c4, c5, c6 and 3 "
        r"more only there; 3 in tfds:set \(test\), x only there\.$"
    )
    with pytest.raises(ValueError, match=message):
        finetune.open_labelled(FINETUNE, "tfds:set", quiet)


def test_smoothed_loss_equals_the_formula():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    labels = np.array([0, 2, 1, 1])
    losses = finetune.smoothed_losses(0.3)(lambda images, training: images, {"images": logits, "labels": labels})
    target = 0.7 * np.eye(3)[labels] + 0.1
    log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(target * log_probability).sum(axis=1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(losses), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_loss_of_mixed_pictures_equals_timms(kind):
    labels, logits = GOLDEN["mixed/labels"], GOLDEN["mixed/logits"]
    share = np.full(len(labels), GOLDEN[f"mixed/{kind}_share"], "float32")
    batch = {"images": logits, "labels": labels, "partner_labels": labels[[1, 0, 3, 2, 5, 4]], "share": share}
    losses = finetune.smoothed_losses(0.1)(lambda images, training: images, batch)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(losses), GOLDEN[f"mixed/{kind}_losses"], rtol=2e-6)


@pytest.mark.parametrize(
    "changes, change, erases, mixes",
    [
        ({"randaugment": "rand-m5", "color_jitter": 0.4, "erasing": 0.25}, RandAugment, True, False),
        ({"color_jitter": 0.4, "mixup": 0.3}, ColorJitter, False, True),
        ({"cutmix": 1.0}, type(None), False, True),
        ({"crop": "random_resized"}, type(None), False, False),
    ],
)
def test_a_batch_is_8_bit_unless_it_is_erased_or_mixed(changes, change, erases, mixes):
    config = dataclasses.replace(FINETUNE, **changes)
    task = finetune.prepare(config, DATA, quiet, ONE)
    augmentation = finetune.augmentation(config)
    assert isinstance(augmentation.change, change) and (task.mix is not None) == mixes
    sizes = {"batch_size": 4, "seed": 0, "first_step": 0, "steps": 3, "workers": 1}
    for batch in training_batches(task.source, task.example, mix=task.mix, **sizes):
        assert batch["images"].dtype == ("float32" if erases or mixes else "uint8")
        assert batch["images"].shape == (4, 16, 12, 3) and batch["labels"].dtype == np.int32
        assert ("share" in batch) == ("partner_labels" in batch) == mixes


def test_what_comes_from_outside_a_picture_is_the_mean_of_the_model():
    config = dataclasses.replace(FINETUNE, randaugment="rand-m9-mstd0.5-inc1", erasing=1.0)
    augmentation = finetune.augmentation(config)
    assert augmentation.change.fill == (124, 116, 104)
    noise = augmentation.erase(np.random.default_rng(0), np.zeros((16, 12, 3), "uint8"))
    noise = noise[(noise != 0).all(-1)]
    expected = np.random.default_rng(0)
    expected.random(23)
    expected = expected.standard_normal((len(noise), 3), "float32")
    normalised = Preprocessing()(noise[None, :, None])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(normalised)[0, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["finetune_atto", "finetune_tiny", "finetune_22k_nano", "finetune_22k_1k_nano"])
def test_the_papers_recipes_run_as_they_stand(name, tmp_path):
    small = {key: TINY[key] for key in ("depths", "dims", "stem_patch_size", "image_size", "batch_size", "log_every")}
    recipe = dataclasses.replace(RECIPES[name], **small, steps=2, classes=0)  # those of the drawn set
    assert recipe.randaugment == "rand-m9-mstd0.5-inc1" and recipe.erasing == 0.25
    results = run(finetune.prepare, recipe, str(tmp_path / "run"), DATA, say=quiet)
    assert results["steps"] == 2 and np.isfinite(results["loss"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_signal_to_the_whole_group_saves_with_worker_processes_too(tmp_path):
    command = [sys.executable, "-m", "training.finetune", "--recipe", "scratch_shapes", "--data", "shapes:64"]
    command += ["--workdir", str(tmp_path / "run"), "--set", "steps=100000", "--set", "worker_processes=1"]
    command += ["--set", "log_every=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as run_:
        while not run_.stdout.readline().startswith("step "):
            assert run_.poll() is None
        os.killpg(run_.pid, signal.SIGINT)
        _, error = run_.communicate()
    assert run_.returncode == 130 and "stopped after step" in error
    assert list((tmp_path / "run" / "checkpoints").glob("step_*.npz"))


def test_a_run_goes_on_by_its_folder_alone(pretrained, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(pretrained[0], folder)
    values = program.define_flags(flags.FlagValues())
    values(["program", "--resume", "--workdir", str(folder), "--set", "epochs=3", "--set", "workers=2"])
    config, data = program._chosen(values, Pretrain)
    assert (config, data) == (dataclasses.replace(PRETRAIN, epochs=3, workers=2), DATA)
    results = run(pretrain.prepare, config, str(folder), data, resume=True, say=quiet)
    assert results["steps"] == 9 and (folder / "checkpoints" / "step_00000009.npz").exists()
    with pytest.raises(ValueError, match="must not end before what is done, 9 steps. Received: 3 in all"):
        run(pretrain.prepare, dataclasses.replace(PRETRAIN, epochs=1), str(folder), DATA, resume=True, say=quiet)
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["epochs"] == 3  # what is refused changes nothing


def test_the_next_command_fits_the_pre_training(pretrained, tmp_path):
    command = shlex.split(pretrained[1]["next"][0])
    assert command[:3] == [sys.executable, "-m", "training.finetune"] and f"init={pretrained[0]}" in command
    settings = [word for flag, word in itertools.pairwise(command) if flag == "--set"]
    recipe = with_settings(RECIPES[command[command.index("--recipe") + 1]], [*settings, "steps=1"])
    assert recipe.network == PRETRAIN.network and recipe.image_size == PRETRAIN.image_size
    assert run(finetune.prepare, recipe, str(tmp_path / "next"), DATA, say=quiet)["steps"] == 1
    curves = [sys.executable, "-m", "tensorboard.main", "--logdir", str(pretrained[0] / "tensorboard")]
    assert shlex.split(pretrained[1]["next"][-1]) == curves
    assert importlib.util.find_spec("tensorboard.main")
    assert following(RECIPES["pretrain_photos"]) == ("finetune_photos", {})
    assert following(RECIPES["pretrain_shapes"]) == ("finetune_shapes", {})


def test_the_command_after_a_pre_training_on_few_pictures_trains(tmp_path):
    """As printed: a tenth of the 20 pictures is held out, and a folder's name may have a space."""
    for name in ("cat", "dog"):
        for number in range(10):
            write_picture(tmp_path / "my pictures" / name / f"{number}.png", seed=number)
    data, folder = f"folder:{tmp_path / 'my pictures'}", tmp_path / "the run"
    results = run(pretrain.prepare, dataclasses.replace(PRETRAIN, steps=1), str(folder), data, say=quiet)
    words = shlex.split(results["next"][0])
    values = program.define_flags(flags.FlagValues())
    assert values(["program", *words[3:], "--set", "steps=1"]) == ["program"]
    config, data = program._chosen(values, Finetune)
    assert run(finetune.prepare, config, values.workdir, data, say=quiet)["steps"] == 1
    assert shlex.split(results["next"][-1])[-1] == str(folder / "tensorboard")


def test_the_next_batch_is_neither_above_the_pictures_nor_above_a_lowered_one():
    photos = RECIPES["pretrain_photos"]
    assert following(photos, 30) == ("finetune_photos", {"batch_size": 30})
    assert following(dataclasses.replace(photos, batch_size=8), 30) == ("finetune_photos", {"batch_size": 8})
    assert following(dataclasses.replace(photos, batch_size=64), 100) == ("finetune_photos", {})
    assert RECIPES["finetune_base"].mixes  # pairs
    assert following(RECIPES["fcmae_base"], 31) == ("finetune_base", {"batch_size": 30})


def test_the_next_batch_is_one_that_the_devices_can_share():
    photos = RECIPES["pretrain_photos"]
    assert following(photos, 27, parts=2) == ("finetune_photos", {"batch_size": 26})
    assert following(photos, parts=3) == ("finetune_photos", {"batch_size": 30})
    assert following(RECIPES["fcmae_base"], 31, parts=3) == ("finetune_base", {"batch_size": 30})
    assert following(RECIPES["fcmae_base"], 29, parts=4) == ("finetune_base", {"batch_size": 24})


def test_the_next_command_has_what_a_machine_asked_for():
    machine = {"devices": 1, "strategy": "one", "dtype": "mixed_bfloat16", "remat": True, "workers": 3, "jit": False}
    machine["worker_processes"] = 2
    config = dataclasses.replace(RECIPES["pretrain_photos"], batch_size=9, **machine)
    name, settings = following(config)
    assert (name, settings) == ("finetune_photos", {**machine, "batch_size": 9})
    words = [word for flag, word in itertools.pairwise(as_flags(settings)) if flag == "--set"]
    assert with_settings(RECIPES[name], words) == dataclasses.replace(RECIPES[name], **settings)


def pictures_of(folder, split, names, count=12):
    for number in range(count):
        for name in names:
            write_picture(folder / split / name / f"{number}.png", [len(split), number])
    return f"folder:{folder}"


def packed(folder):
    pictures_of(folder, "in", "ab")
    pack(f"folder:{folder / 'in'}", folder / "set", validation_split=0.3, say=quiet)
    return f"records:{folder / 'set'}"


def with_test(folder):
    pictures_of(folder, "val", "ab", 2)
    return pictures_of(folder, "train", "ab")


def without_test(folder):
    return pictures_of(folder, "train", "ab")


@pytest.mark.parametrize("arrange, opens", [(packed, True), (with_test, True), (without_test, False)])
def test_the_next_command_names_data_that_fine_tuning_opens(arrange, opens, tmp_path):
    data = arrange(tmp_path)
    task = pretrain.prepare(PRETRAIN, data, quiet, ONE)
    words = shlex.split(task.next_lines({"folder": "run"})[0])
    named = words[words.index("--data") + 1]
    assert named == (data if opens else "folder:LABELLED_PICTURES")
    settings = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
    recipe = with_settings(RECIPES[words[words.index("--recipe") + 1]], settings)
    if opens:
        source, test = finetune.open_labelled(recipe, named, quiet)
        assert source.count >= recipe.batch_size and test.count


def test_other_classes_to_test_on_are_no_data_to_go_on_with(monkeypatch):
    def open_source(name, split, **_):
        classes = ["a", "b"] if split == "test" else ["a", "c"]
        return PictureSource(name, None, 9, channels=3, classes=classes)

    monkeypatch.setattr(pretrain, "open_source", open_source)
    assert pretrain._labelled("tfds:set") == ("folder:LABELLED_PICTURES", None)


def test_a_share_that_packing_held_out_is_said(tmp_path):
    data, lines = packed(tmp_path), []
    _, test = finetune.open_labelled(dataclasses.replace(FINETUNE, validation_split=0.3), data, lines.append)
    how = f"so {test.count} pictures are held out by their names (validation_split=0.3)"
    assert lines == [f"{data} (test): the folder has no such part, {how}"]


def test_a_short_run_has_an_average_that_follows_it():
    assert averaging(0.9999, 64) == pytest.approx(1 - 10 / 64)
    assert averaging(0.9999, 1_000_000) == 0.9999 and averaging(None, 64) is None and averaging(0.9, 5) == 0.0


@pytest.mark.parametrize("ema, said", [(0.9, True), (0.1, False), (None, False)])
def test_another_decay_than_that_of_the_recipe_is_said(ema, said, tmp_path):
    lines = []
    config = dataclasses.replace(FINETUNE, ema=ema, steps=12)
    say = lambda text, progress=False: lines.append(text)  # noqa: E731

    def stop(*_):
        raise OSError("enough")

    task = dataclasses.replace(finetune.prepare(config, DATA, quiet, ONE), evaluate=stop)
    with pytest.raises(OSError, match="enough"):
        run(lambda *_: task, config, str(tmp_path / "run"), DATA, say=say)
    line = "average of weights: decay 0.1667 for 12 steps, in place of 0.9"
    assert (line in lines) == said and len([text for text in lines if text.startswith("average")]) == said


def test_the_best_weights_are_saved_where_they_are_chosen(tmp_path, monkeypatch):
    """The numbers of the evaluations, and whether the average is better, are made up."""
    worth = iter([(30.0, 10.0), (50.0, 90.0), (40.0, 20.0)])  # after each epoch: of the weights, of the average

    def top_1(*_, weights=None, **__):
        if weights is None:
            top_1.pair = next(worth)
        return top_1.pair[weights is not None]

    monkeypatch.setattr(finetune, "top_1", top_1)
    config, lines = dataclasses.replace(FINETUNE, epochs=3, choose="best", keep_checkpoints=1), []
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    results = run(finetune.prepare, config, str(tmp_path / "run"), DATA, say=say)
    assert (results["top_1"], results["top_1_average"]) == (50.0, 90.0)
    assert "the best weights are those after step 6" in lines and "saved: the average of weights" in lines
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"best.npz", "step_00000009.npz"}
    with np.load(tmp_path / "run" / "checkpoints" / "best.npz") as state:
        averages = [state[key] for key in sorted(state.files) if key.startswith("average/")]
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    for value, variable in zip(averages, saved.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))


WITHOUT_TENSORFLOW = """
import dataclasses, sys
sys.modules["tensorflow"] = None  # importing it fails
from training import finetune
from training.recipes import RECIPES
from training.run import run
recipe = dataclasses.replace(RECIPES["scratch_shapes"], steps=2, batch_size=8)
assert run(finetune.prepare, recipe, sys.argv[1], "shapes:20")["steps"] == 2
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="this backend is TensorFlow")
def test_training_needs_no_tensorflow(tmp_path):
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path / "run")], check=True, capture_output=True)


@pytest.mark.slow
def test_worker_processes_import_neither_the_program_nor_keras():
    command = [sys.executable, "-m", "tests.training.modules_of_workers"]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"training", "PIL"} <= set(modules) and not {"keras", "tensorflow", "torch"} & set(modules)


def test_a_run_that_was_begun_goes_on_and_one_that_ended_is_taken(tmp_path, monkeypatch):
    asked, said = [], []

    def run_task(prepare, config, folder, data, resume, say):
        asked.append(resume)
        return {"top_1": 1.0}

    monkeypatch.setattr(run_module, "run", run_task)
    folder = tmp_path / "run"
    once = lambda config=FINETUNE: run_module.once(None, config, folder, DATA, said.append)  # noqa: E731
    once()
    folder.mkdir()
    record = {"recipe": dataclasses.asdict(FINETUNE), "versions": {"backend": keras.backend.backend()}}
    (folder / "recipe.json").write_text(json.dumps({"program": "finetune", "data": DATA, **record}))
    once()
    assert asked == [False, True]
    (folder / "results.json").write_text(json.dumps({"top_1": 2.0}))
    assert once() == {"top_1": 2.0} and len(asked) == 2 and "is complete" in said[-1]
    for other in ({"seed": 5}, {"epochs": 7}):
        with pytest.raises(ValueError, match="must be a new folder or one of the same settings and backend"):
            once(dataclasses.replace(FINETUNE, **other))


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stopped("stopped after step 3", 15)])
def test_what_is_said_after_a_signal_works_as_printed(pretrained, stop, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "my run"

    def said(*more):
        values = program.define_flags(flags.FlagValues())
        monkeypatch.setattr(program.flags, "FLAGS", values)
        argv = values(["program", "--recipe", "pretrain_shapes", "--data", DATA, "--workdir", str(folder), *more])
        assert program._main(argv, Pretrain, pretrain.prepare, "unlabelled") == getattr(stop, "exit_code", 130)
        return capsys.readouterr().err.strip().partition(". ")[2]

    def run(*_):
        raise stop

    monkeypatch.setattr(program, "run", run)
    assert said() == "The same command begins again."
    shutil.copytree(pretrained[0], folder)
    assert said("--resume", "--set", "epochs=3") == "The same command goes on."
    words = shlex.split(said().removeprefix("Go on with: "))
    assert words[:3] == [sys.executable, "-m", "training.pretrain"]
    values = program.define_flags(flags.FlagValues())
    assert values(["program", *words[3:]]) == ["program"]
    assert program._chosen(values, Pretrain) == (PRETRAIN, DATA)


def test_a_workdir_may_begin_with_a_tilde(pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(pretrained[0], tmp_path / "run")
    assert workdir.recorded("~/run", Pretrain) == (PRETRAIN, DATA)
    assert workdir.Workdir("~/run", "pretrain", PRETRAIN, DATA, resume=True).path == tmp_path / "run"
    assert once(pretrain.prepare, PRETRAIN, "~/run", DATA, quiet)["steps"] == 6
    assert ablate.ablate([], 1, "~/grid", DATA, (), quiet) == {} and (tmp_path / "grid").is_dir()


def test_there_are_six_flags():
    values = program.define_flags(flags.FlagValues())
    assert sorted(values) == ["data", "explain", "recipe", "resume", "set", "workdir"]


def test_help_has_our_flags_first_and_each_recipe_in_a_line():
    command = [sys.executable, "-m", "training.finetune", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    flag_lines = [line.split()[0] for line in lines if line.startswith("  --")]
    assert flag_lines == [f"--{name}" for name in ("recipe", "data", "workdir", "resume", "explain", "set")]
    rows = {line.split()[0]: line for line in lines[lines.index("recipes (--explain has every field of one):") + 1 :]}
    assert set(rows) == {name for name, recipe in RECIPES.items() if isinstance(recipe, Finetune)}
    assert "76.7%" in rows["finetune_atto"]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="which needs JAX")
def test_nothing_is_said_of_a_jax_that_is_not_installed():
    program_ = "import sys; sys.modules['jax'] = None; import training.data; print('imported')"
    done = subprocess.run([sys.executable, "-c", program_], capture_output=True, text=True, check=True)
    assert done.stdout == "imported\n" and "jax" not in done.stderr


@pytest.mark.slow
def test_nothing_but_our_lines_reaches_the_terminal(tmp_path):
    command = [sys.executable, "-m", "training.finetune", "--recipe", "scratch_shapes", "--data", "shapes:20"]
    command += ["--set", "steps=2", "--set", "batch_size=8", "--workdir", str(tmp_path / "run")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_CPP")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    others = [line for line in done.stderr.splitlines() if "allocator: " not in line]
    assert others == []


def test_notes_are_held_back_and_nothing_else(capfd):
    note = b"I0000 00:00:1795784515.4 3304 cpu_feature_guard.cc:31] This binary is optimized\n"
    with quiet_module.without_notes():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, note + b"a line of somebody else\n")
    os.write(2, note)
    assert capfd.readouterr().err == "a line of somebody else\n" + note.decode()


def test_a_process_that_was_begun_meanwhile_is_not_waited_for(capfd):
    with quiet_module.without_notes():
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        os.write(2, b"a line without its end")
    assert capfd.readouterr().err == "a line without its end"
    other.communicate(b"\n")


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), signal.SIGKILL)", "signal.raise_signal(11)"])
def test_the_last_words_of_a_crash_reach_the_terminal(end):
    held = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
    program_ = f"""
import os, signal
from training.quiet import without_notes
with without_notes():
    os.write(2, b"{held}\\nterminate called after throwing an instance of 'std::bad_alloc'")
    {end}
"""
    done = subprocess.run([sys.executable, "-c", program_], capture_output=True, text=True)
    assert done.returncode < 0
    assert done.stderr == "terminate called after throwing an instance of 'std::bad_alloc'"


def test_explain_prints_the_recipe_and_stops(tmp_path):
    command = [sys.executable, "-m", "training.pretrain", "--recipe", "pretrain_shapes", "--data", DATA, "--explain"]
    command += ["--set", "batch_size=12", "--set", "mask_ratio=0.5", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mask_ratio = 0.5  # share of hidden patches" in done.stdout
    assert "patches = 16, visible = 8" in done.stdout
    assert "epoch steps = 2  # 24 images" in done.stdout
    assert "peak_lr = 0.000375" in done.stdout
    own = ["--recipe", "pretrain_shapes", "--data", DATA, "--workdir", "FOLDER", *command[8:12]]
    assert f"command: {shlex.join([sys.executable, '-m', 'training.pretrain', *own])}\n" in done.stdout
    assert "what follows is of the recipe without the changes, on its own data\n" in done.stdout
    assert "hardware: two cores" in done.stdout
    assert "all layers  0.000375" in done.stdout and "weights = 936,112" in done.stdout
    assert not (tmp_path / "run").exists()


def test_explain_has_the_rate_of_each_layer_and_what_the_run_needs():
    said = program.explain("finetune_tiny", RECIPES["finetune_tiny"], settings=["epochs=300"])
    rows = dict(line.split(maxsplit=1) for line in said.splitlines() if " = peak * " in line)
    assert len(rows) == 1 + 3 + 18 + 2
    assert rows["stem"].split() == ["0.000480303", "=", "peak", "*", "0.150095"] and "* 1" in rows["head"]
    assert "total steps = 375300  # 1,281,167 images" in said and "exaFLOP" in said
    assert " -m training.finetune --recipe finetune_tiny --data tfds:imagenet2012 --workdir FOLDER" in said
    assert "--set init=convnextv2_tiny.fcmae --set epochs=300" in said
    assert "note: erasing is not in the tables" in said and "top-1 83.0%" in said
    without = program.explain("finetune_tiny", RECIPES["finetune_tiny"])
    changed = [line for line in said.splitlines() if line not in without.splitlines()]
    assert changed[-1] == "what follows is of the recipe without the changes" and len(changed) == 2  # and the command


def test_explain_says_whose_figures_it_has_and_a_command_that_a_shell_reads():
    settings, data = ["image_size=(96, 64)", "init=my weights.h5"], "folder:my photos"
    config = with_settings(RECIPES["finetune_atto"], settings)
    said = program.explain("finetune_atto", config, 2580, settings, 3, data).splitlines()
    (command,) = (line.removeprefix("command: ") for line in said if line.startswith("command: "))
    words = ["--recipe", "finetune_atto", "--data", data, "--workdir", "FOLDER"]
    words += ["--set", settings[0], "--set", settings[1]]
    assert shlex.split(command) == [sys.executable, "-m", "training.finetune", *words]
    plain = program.explain("finetune_atto", RECIPES["finetune_atto"], 2580, (), 3, data).splitlines()
    qualified = plain.index("what follows is of the recipe on its own data")
    assert qualified < next(n for n, line in enumerate(plain) if "76.7" in line)
    own = program.explain("finetune_atto", RECIPES["finetune_atto"], data="tfds:imagenet2012")
    assert "what follows" not in own


@pytest.mark.parametrize(
    "given, message",
    [
        (["--recipe", "fcmae_ato", "--data", DATA], "Received: 'fcmae_ato'. Closest: fcmae_atto"),
        (
            ["--recipe", "fcmae_atto", "--workdir", "x"],
            "--data must be shapes, shapes:COUNT, folder:PATH, records:PATH or tfds:NAME",
        ),
        (["--resume", "--workdir", "x", "--explain"], "--explain needs a --recipe"),
        (["--recipe", "fcmae_atto", "shapes"], "Received: 'shapes'. Did you mean --data shapes?"),
        (["--recipe", "fcmae_atto", "--data", DATA], "--workdir must name a folder"),
    ],
)
def test_bad_command_lines_end_with_one_line(given, message, capsys, monkeypatch):
    values = program.define_flags(flags.FlagValues())
    monkeypatch.setattr(program.flags, "FLAGS", values)
    rest = values(["program", *given])
    assert program._main(rest, Pretrain, pretrain.prepare, "unlabelled") == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
