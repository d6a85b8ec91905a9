"""The Mask R-CNN against mmdetection's, and what a Keras user does with it."""

import subprocess
import sys
import tracemalloc

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.detection.mask_rcnn import _objects
from keras_convnextv2.detection.proposals import proposals_of
from keras_convnextv2.detection.roi import paste
from keras_convnextv2.detection.tiling import each_pasted
from keras_convnextv2.layers.network import variables_of
from keras_convnextv2.weights.matching import expand, measure
from keras_convnextv2.weights.rows import OWN, TABLES
from tests.gradients import gradients_of, values_of

to_numpy = ops.convert_to_numpy
LOSSES = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask")
GROUPS = {"neck": "fpn", "rpn_head": "rpn", "box_head": "bbox_head", "mask_head": "mask_head"}
ALL = {"rpn_samples": 100_000, "roi_samples": 4000}  # more than there are: every sample is taken
NARROW = {"fpn_dim": 16, "rpn_dim": 16, "box_dim": 32, "mask_dim": 16}
SMALL = {**NARROW, "mask_convs": 1, "proposals": 20, "max_detections": 5, "rpn_samples": 16, "roi_samples": 8}


@pytest.fixture(scope="module")
def expected(oracle):
    with np.load(oracle / "detection" / "det_mini_expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def detector(oracle):
    pytest.importorskip("torch")
    made = {}

    def of(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            network = kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), include_top=False, include_preprocessing=False)
            model = kc.MaskRCNN(network, 5, **NARROW, **options)
            report = kc.load_weights(model, oracle / "detection" / "det_mini_mmdet.pth")
            assert report.format == "mmdetection Mask R-CNN" and not report.untouched
            assert len(report.loaded) == len(model.weights)
            made[key] = model
        return made[key]

    return of


def close(ours, theirs, atol, name=""):
    np.testing.assert_allclose(to_numpy(ours), theirs, rtol=0, atol=atol, err_msg=name)


def answers(model, inputs):
    return {name: to_numpy(x) for name, x in values_of(lambda: model(inputs), model).items()}


def test_maps(detector, expected):
    model = detector()
    maps = values_of(lambda: model.maps(expected["image"]), model)
    for name, x in maps.items():
        close(x, expected[name.lower()], 5e-5, name)
    odd = values_of(lambda: model.maps(expected["image_odd"]), model)
    for name, x in odd.items():
        close(x, expected[f"odd_{name.lower()}"], 5e-5, name)


def test_heads(detector, expected):
    model, rois = detector(), expected["rois"]
    maps = [expected[f"p{n}"] for n in range(2, 7)]
    boxes = np.stack([rois[:, 1:]] * 2)

    def heads():
        asked = [model.rpn_head(x) for x in maps]
        features = [model._features([ops.convert_to_tensor(x) for x in maps], boxes, size) for size in (7, 14)]
        box = model.box_head(ops.convert_to_tensor(expected["roi_feat7"][None]))
        return asked, features, box, model.mask_head(ops.convert_to_tensor(expected["roi_feat14"][None]))

    asked, features, (logits, deltas), masks = values_of(heads, model)
    for n, ((objects, changes), anchors) in enumerate(zip(asked, model._anchors(maps), strict=True), 2):
        close(objects, expected[f"rpn_cls_{n}"], 5e-5)
        close(changes, expected[f"rpn_reg_{n}"], 5e-5)
        close(anchors, expected[f"anchors_{n}"], 1e-4)
    for size, found in zip((7, 14), features, strict=True):
        own = np.stack([to_numpy(found)[int(n), i] for i, n in enumerate(rois[:, 0])])
        close(own, expected[f"roi_feat{size}"], 5e-5)
    close(logits[0], expected["roi_cls_logits"], 5e-5)
    close(ops.reshape(deltas[0], (20, 20)), expected["roi_deltas"], 5e-5)
    close(masks[0], expected["roi_mask_logits"], 2e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_detections(detector, expected, soft):
    found, name = answers(detector(soft_nms=soft), expected["image"]), "soft" if soft else "det"
    for n in range(2):
        same(found, expected, name, n)
        masks_agree(found, expected, name, n, (96, 128))


def same(found, expected, name, n):
    """The detections of a picture as a set: each of theirs has one of ours."""
    count = int(expected[f"{name}_count"][n])
    assert found["count"][n] == count
    found_for(found, expected, name, n)
    assert not found["boxes"][n, count:].any() and (found["classes"][n, count:] == -1).all()


def found_for(found, expected, name, n):
    """(count,): which of ours each of their detections of a picture is."""
    count = int(expected[f"{name}_count"][n])
    ours = np.c_[found["boxes"][n, :count], found["scores"][n, :count] * 20, found["classes"][n, :count] * 1000]
    labels = expected[f"{name}_labels"][n, :count] * 1000
    theirs = np.c_[expected[f"{name}_boxes"][n, :count], expected[f"{name}_scores"][n, :count] * 20, labels]
    apart = abs(ours[:, None] - theirs[None]).max(-1)
    assert apart.min(0).max() < 1e-3 and len(set(apart.argmin(0))) == count
    return apart.argmin(0)


def masks_agree(found, expected, name, n, size):
    """The mask of each of their detections is that of ours with its box, score and class."""
    count = int(expected[f"{name}_count"][n])
    masks = np.unpackbits(expected[f"{name}_masks_packed"][n], axis=-1)[:count, : size[0] * size[1]]
    ours = to_numpy(paste(found["masks"][n], found["boxes"][n], size))[:count] >= 0.5
    alike(ours[found_for(found, expected, name, n)], masks.reshape(-1, *size).astype(bool))


def alike(ours, theirs):
    assert ours.shape == theirs.shape and (ours != theirs).sum() <= 0.002 * theirs.sum()


def test_detections_of_other_sizes(detector, expected):
    model = detector()
    second = answers(model, expected["image_second"])
    same(second, expected, "second_det", 0)
    inputs = {"images": expected["image_padded"], "sizes": expected["padded_img_shape"].astype("float32")}
    padded = answers(model, inputs)
    for n in range(2):
        same(padded, expected, "padded_det", n)


@pytest.mark.slow
def test_detections_of_a_large_picture(detector, expected):
    found = answers(detector(), expected["image_large"].astype("float32"))
    same(found, expected, "large_det", 0)


def test_proposals(detector, expected):
    logits, deltas = ([expected[f"rpn_{kind}_{n}"] for n in range(2, 7)] for kind in ("cls", "reg"))
    anchors = [expected[f"anchors_{n}"] for n in range(2, 7)]
    sizes = np.full((2, 2), (96, 128), "float32")
    found = values_of(lambda: proposals_of(logits, deltas, anchors, sizes, count=1000), detector())
    boxes, scores, valid = map(to_numpy, found)
    for n in range(2):
        count = int(expected["proposals_count"][n])
        assert valid[n].sum() == count
        ours, theirs = boxes[n, :count], expected["proposals"][n, :count]
        assert abs(ours[:, None] - theirs[None]).max(-1).min(0).max() < 1e-3
        close(np.sort(scores[n, :count]), np.sort(expected["proposal_scores"][n, :count]), 1e-5)


def targets_of(expected, name):
    count = expected[f"{name}_gt_count"]
    return {
        "boxes": expected[f"{name}_gt_boxes"],
        "classes": expected[f"{name}_gt_labels"],
        "valid": np.arange(expected[f"{name}_gt_boxes"].shape[1])[None] < count[:, None],
        "masks": expected[f"{name}_gt_masks"],
    }


def given(expected, name):
    boxes = expected[f"{name}_proposals"]
    return boxes, np.arange(boxes.shape[1])[None] < expected[f"{name}_proposals_count"][:, None]


def test_gradients(detector, expected):
    """With every sample taken, since mmdetection's choice of samples is random."""
    model = detector(**ALL)
    targets, proposals = targets_of(expected, "trainA"), given(expected, "trainA_all")

    def loss():
        return ops.mean(sum(model.losses_of(expected["image"], targets, proposals=proposals).values()))

    gradients = gradients_of(loss, model)
    theirs = dict(zip(expected["trainA_all_grad_names"], expected["trainA_all_grad_l2"], strict=True))
    size = measure(OWN, {path: tuple(v.shape) for path, v in variables_of(model).items()})
    names = {pair.ours: pair.theirs for pair in expand(TABLES["mmdetection Mask R-CNN"], size)}
    paths = {v.path: path for path, v in variables_of(model).items()}
    groups = {}
    for path, gradient in gradients.items():
        norm = theirs[names[paths[path]]]
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=2e-4, atol=1e-6, err_msg=path)
        group = {"neck": "fpn", "rpn_head": "rpn", "box_head": "bbox_head"}.get(
            paths[path].split("/")[0], paths[path].split("/")[0]
        )
        group = group if group in expected["trainA_all_grad_group_names"] else "backbone"
        groups.setdefault(group, []).append(np.linalg.norm(gradient))
    for group, norm in zip(expected["trainA_all_grad_group_names"], expected["trainA_all_grad_group_l2"], strict=True):
        np.testing.assert_allclose(np.linalg.norm(groups[group]), norm, rtol=2e-4)


@pytest.mark.parametrize("name", ["trainA", "trainB", "frcnn", "trainE"])
def test_losses_of_the_samples_that_the_reference_drew(detector, expected, monkeypatch, name):
    model = detector(masks=name != "frcnn", roi_samples=64)
    own = targets_of(expected, name) if f"{name}_gt_boxes" in expected else targets_of(expected, "trainA")
    images = {"trainB": "image_padded", "trainE": "image_empty"}.get(name, "image")
    inputs = {"images": expected[images]}
    if name == "trainB":
        inputs["sizes"] = expected["padded_img_shape"].astype("float32")
    if name == "trainE":
        own["valid"] = np.zeros_like(own["valid"])
    assignments = {}

    def drawn(assigned, count, share):
        """What was sampled there; of the second stage theirs begin with the true objects, ours with the padded ones."""
        stage = "roi" if "rpn" in assignments else "rpn"
        assignments[stage] = assigned
        chosen, positive, valid = (np.zeros((2, count), kind) for kind in ("int32", bool, bool))
        for n in range(2):
            front = f"{name}_{stage}"
            counts = [int(expected[f"{front}_{kind}_count"][n]) for kind in ("pos", "neg")]
            inds = [expected[f"{front}_{kind}_inds"][n] for kind in ("pos", "neg")]
            inds = np.concatenate([x[:count] for x, count in zip(inds, counts, strict=True)])
            if stage == "roi":
                objects, width = int(own["valid"][n].sum()), assigned.shape[1] - expected[f"{name}_proposals"].shape[1]
                inds = np.where(inds < objects, inds, inds - objects + width)
            chosen[n, : len(inds)] = inds
            positive[n, : counts[0]] = True
            valid[n, : len(inds)] = True
        return tuple(map(ops.convert_to_tensor, (chosen, positive, valid)))

    monkeypatch.setattr(model, "_sampled", drawn)
    losses = lambda: (model.losses_of(inputs, own, proposals=given(expected, name)), assignments)  # noqa: E731
    found, assigned = values_of(losses, model)
    assert set(found) == set(LOSSES) - ({"loss_mask"} if name == "frcnn" else set())
    assigned = {stage: to_numpy(x) for stage, x in assigned.items()}
    for loss, x in found.items():
        np.testing.assert_allclose(to_numpy(x).mean(), expected[f"{name}_{loss}"], rtol=2e-5, atol=1e-7, err_msg=loss)
    np.testing.assert_array_equal(assigned["rpn"], expected[f"{name}_rpn_gt_inds"])
    width = assigned["roi"].shape[1] - expected[f"{name}_proposals"].shape[1]
    for n, count in enumerate(expected[f"{name}_proposals_count"]):
        ours = assigned["roi"][n, width : width + count]
        np.testing.assert_array_equal(ours, expected[f"{name}_roi_gt_inds"][n, :count])


def small(classes=2, dims=(8, 12), **options):
    network = kc.ConvNeXtV2((1, 1), dims, include_top=False)
    return kc.MaskRCNN(network, classes, **{**SMALL, "score_threshold": 0.0, "seed": 0, **options})


def drawn(count=2, size=(32, 48), objects=3, seed=0):
    """Pictures, and objects of which the last is none."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 12, (count, objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 18, (count, objects, 2))], -1).astype("float32")
    rows, columns = np.arange(size[0])[:, None], np.arange(size[1])
    x1, y1, x2, y2 = (boxes[..., n, None, None] for n in range(4))
    masks = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
    valid = np.ones((count, objects), bool)
    valid[:, -1] = False
    classes = np.where(valid, rng.integers(0, 2, (count, objects)), -1).astype("int32")
    targets = {"boxes": boxes * valid[..., None], "classes": classes, "valid": valid, "masks": masks.astype("uint8")}
    return rng.uniform(0, 255, (count, *size, 3)).astype("float32"), targets


@pytest.mark.parametrize("masks", [True, False])
def test_a_users_day(tmp_path, masks):
    """Fit, predict, save, load and go on, as the documentation says."""
    model, (images, targets) = small(("cat", "dog"), masks=masks), drawn()
    if not masks:
        del targets["masks"]
    model.compile(keras.optimizers.AdamW(1e-3))
    history = model.fit(images, targets, batch_size=2, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0] and np.isfinite(history).all()
    if masks:
        assert model.evaluate(images, targets, batch_size=2, verbose=0) < history[0]
    found = model.predict(images, batch_size=2, verbose=0)
    shapes = {"boxes": (2, 5, 4), "scores": (2, 5), "classes": (2, 5), "count": (2,)}
    shapes |= {"masks": (2, 5, 28, 28)} if masks else {}
    assert {name: x.shape for name, x in found.items()} == shapes
    assert kc.class_names(model) == ("cat", "dog")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for name, x in loaded.predict(images, batch_size=2, verbose=0).items():
        np.testing.assert_allclose(x, found[name], atol=1e-4)
    assert loaded.optimizer.iterations == 6  # `fit` goes on
    model.save_weights(tmp_path / "model.weights.h5")
    other = small(("cat", "dog"), masks=masks)
    report = kc.load_weights(other, tmp_path / "model.weights.h5")
    assert report.format == "weights.h5 Mask R-CNN" and len(report.loaded) == len(model.weights)
    for path, v in variables_of(other).items():
        np.testing.assert_array_equal(to_numpy(v), to_numpy(variables_of(model)[path]))


def test_written_for_mmdetection(tmp_path, detector, oracle):
    torch = pytest.importorskip("torch")
    model = detector()
    report = kc.save_weights_as(model, tmp_path / "model.pth", "mmdetection")
    assert not report.left_out and not report.added
    ours, theirs = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (tmp_path / "model.pth", oracle / "detection" / "det_mini_mmdet.pth")
    )
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_backbone_alone_and_other_heads(tmp_path, oracle):
    pytest.importorskip("torch")
    network = kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), include_top=False, include_preprocessing=False)
    path = oracle / "detection" / "det_mini_mmdet.pth"
    model = kc.MaskRCNN(network, 3, **NARROW)
    with pytest.raises(ValueError, match="has a head of 5 classes, the model one of 3"):
        kc.load_weights(model, path)
    report = kc.load_weights(model, path, skip_head=True)
    assert {p.split("/")[0] + "/" + p.split("/")[1] for p in report.untouched} == {
        "box_head/classifier", "box_head/deltas", "mask_head/classifier"
    }  # fmt: skip
    faster = kc.MaskRCNN(network, 5, masks=False, **NARROW)
    report = kc.load_weights(faster, path)
    assert not report.untouched and all(name.startswith("roi_head.mask_head.") for name in report.left_out)
    encoder = kc.load_weights(network, path)
    assert not encoder.untouched
    torch = pytest.importorskip("torch")
    arrays = torch.load(path, weights_only=True)["state_dict"]
    torch.save({"state_dict": arrays | {"panoptic_head.conv.weight": torch.ones(2)}}, tmp_path / "panoptic.pth")
    report = kc.load_weights(faster, tmp_path / "panoptic.pth")
    assert not report.untouched and "panoptic_head.conv.weight" in report.left_out
    arrays = {name: x for name, x in arrays.items() if name != "rpn_head.rpn_cls.bias"}
    torch.save({"state_dict": arrays}, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match="missing 'rpn_head.rpn_cls.bias'"):
        kc.load_weights(faster, tmp_path / "lacking.pth")


def test_a_picture_of_any_size(detector, expected):
    model = detector()
    picture = expected["image"][0]
    found = kc.detection.predict(model, picture)
    count = int(expected["det_count"][0])
    close(found["boxes"], expected["det_boxes"][0, :count], 1e-3)
    assert found["masks"].shape == (count, 96, 128) and found["masks"].dtype == bool
    tiled = kc.detection.predict(model, picture, window=96, stride=32)
    whole = kc.detection.predict(model, picture[:, :96])
    assert len(tiled["scores"]) > len(whole["scores"]) / 2 and (np.diff(tiled["scores"]) <= 0).all()
    assert (tiled["boxes"] <= [128, 96, 128, 96]).all() and tiled["masks"].shape[1:] == (96, 128)
    # in the original picture, as the reference gives it: boxes divided by the factor, masks pasted at that size
    small = kc.detection.predict(model, picture[:40, :50], size=(100, 80))
    assert (small["boxes"] <= [50.01, 40.01, 50.01, 40.01]).all() and small["masks"].shape[1:] == (40, 50)


@pytest.mark.parametrize("n", [0, 1])
def test_a_picture_that_was_enlarged(detector, expected, monkeypatch, n):
    """In pixels of the given picture, which the reference made 1.28 times as large."""
    size = tuple(expected["rescaled_ori_shape"])
    enlarged = lambda picture, want: expected["image"][n] if want == (96, 128) else None  # noqa: E731
    monkeypatch.setattr("keras_convnextv2.detection.tiling.resized", enlarged)
    found = kc.detection.predict(detector(), np.zeros((*size, 3), "float32"), size=(128, 96))
    count, batch = int(expected["rescaled_count"][n]), {name: np.stack([x] * 2) for name, x in found.items()}
    masks = np.unpackbits(expected["rescaled_masks_packed"][n], axis=-1)[:count, : size[0] * size[1]]
    assert len(found["scores"]) == count
    alike(found["masks"][found_for(batch, expected, "rescaled", n)], masks.reshape(-1, *size).astype(bool))


@pytest.mark.parametrize("options, message", [
    ({"classes": 0}, "classes must be a positive int"), ({"proposals": 0}, "proposals must be a positive int"),
    ({"nms_threshold": 1.5}, "nms_threshold must be in 0..1"), ({"mask_convs": -1}, "mask_convs must be at least 0"),
])  # fmt: skip
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_bad_targets():
    model, (images, targets) = small(), drawn()
    with pytest.raises(ValueError, match=r"must have the size of the images, \(32, 48\). Received: \(16, 24\)"):
        model.losses_of(images, {**targets, "masks": targets["masks"][:, :, ::2, ::2]})
    del targets["masks"]
    with pytest.raises(ValueError, match=r"Lacking: \['masks'\]"):
        model.losses_of(images, targets)


@pytest.mark.parametrize("wrong", [2, 3, -1])
def test_classes_that_are_none_are_errors(wrong):
    model, (images, targets) = small(masks=False), drawn()
    del targets["masks"]
    targets["classes"][1, 0] = wrong
    model.compile(keras.optimizers.SGD(0.0))
    message = rf"classes must be in 0..1, counted from 0. Received: {wrong}, picture 1, object 0"
    for use in (model.losses_of, model.fit):
        with pytest.raises(ValueError, match=message):
            use(images, targets)


def test_classes_that_are_none_are_left_out_where_a_compiler_hides_them(monkeypatch):
    model, (images, targets) = small(masks=False, **ALL), drawn()
    del targets["masks"]
    targets["classes"][1, 0] = 2  # the background's number
    without = {**targets, "valid": targets["valid"].copy()}
    without["valid"][1, 0] = False
    monkeypatch.setattr("keras_convnextv2.detection.mask_rcnn.known", lambda x: None)
    found = [values_of(lambda given=given: model.losses_of(images, given), model) for given in (targets, without)]
    for name, x in found[0].items():
        close(x, to_numpy(found[1][name]), 1e-6, name)


def test_odd_targets():
    """No object at all, an empty box among others, bits of 255, keys of the user's own."""
    model, (images, targets) = small(), drawn()
    nothing = {name: x[:, :0] for name, x in targets.items()}
    empty = {**targets, "boxes": targets["boxes"].copy(), "valid": targets["valid"].copy()}
    empty["boxes"][0, 0] = [10, 10, 10, 20]
    empty["valid"][0, 0] = False
    odd = {**empty, "valid": targets["valid"], "masks": 255 * targets["masks"], "ids": np.arange(2)}

    for name, x in values_of(lambda: model.losses_of(images, nothing), model).items():
        assert np.isfinite(to_numpy(x)).all(), name
    ours, theirs = (_objects(given, images.shape[1:3], 2, True) for given in (odd, empty))
    assert set(ours) == set(theirs) == {*targets, "mask_boxes"}
    for name in ours:
        np.testing.assert_array_equal(to_numpy(ours[name]), to_numpy(theirs[name]), err_msg=name)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends know every size")
def test_a_padded_batch_without_objects_on_tensorflow():
    import tensorflow as tf

    model, (images, targets) = small(masks=False), drawn()
    model.compile(keras.optimizers.SGD(0.0))
    rows = [{name: x[n, :0] for name, x in targets.items() if name != "masks"} for n in range(2)]
    kinds = {name: tf.TensorSpec((None, *x.shape[1:]), x.dtype) for name, x in rows[0].items()}
    signature = (tf.TensorSpec(images.shape[1:], "float32"), kinds)
    data = tf.data.Dataset.from_generator(lambda: zip(images, rows, strict=True), output_signature=signature)
    data = data.padded_batch(2).apply(tf.data.experimental.assert_cardinality(1))
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


def test_an_fcmae_begins_a_training(tmp_path):
    fcmae = kc.FCMAE(kc.ConvNeXtV2((1, 1), (8, 12), include_top=False, input_shape=(32, 48, 3)), decoder_dim=4)
    fcmae.save_weights(tmp_path / "fcmae.weights.h5")
    (images, targets), encoder = drawn(), {path: to_numpy(v) for path, v in variables_of(fcmae.backbone).items()}
    model = small()
    kc.load_weights(model, tmp_path / "fcmae.weights.h5")
    for started in (kc.MaskRCNN(fcmae.backbone, 2, **SMALL), model):
        ours = {path: to_numpy(v) for path, v in variables_of(started).items()}
        assert set(encoder) < set(ours)
        for path, value in encoder.items():
            np.testing.assert_array_equal(ours[path], value, err_msg=path)
    model.compile(keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(images, targets, batch_size=2, verbose=0).history["loss"]).all()
    assert (to_numpy(variables_of(model)["stem/conv/kernel"]) != encoder["stem/conv/kernel"]).any()


def test_weights_of_samples_and_a_summary():
    model, (images, targets) = small(masks=False), drawn()
    model.compile(keras.optimizers.SGD(0.0))
    options = {"batch_size": 2, "verbose": 0}
    assert model.fit(images, targets, sample_weight=np.zeros(2), **options).history["loss"] == [0.0]
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert any("rpn_head" in line for line in lines)


def test_a_model_of_one_size_looks_by_tiles_of_it():
    network = kc.ConvNeXtV2((1, 1), (8, 12), include_top=False, input_shape=(32, 32, 3))
    model = kc.MaskRCNN(network, 2, **SMALL, score_threshold=0.0)
    for size in ((20, 30), (40, 50)):
        found = kc.detection.predict(model, np.zeros((*size, 3), "uint8"))
        assert found["masks"].shape[1:] == size
    with pytest.raises(ValueError, match=r"picture must have 3 channels. Received: shape \(20, 30, 1\)"):
        kc.detection.predict(model, np.zeros((20, 30, 1)))


def test_masks_of_a_large_scene_can_stay_small(monkeypatch):
    model, scene, rng = small(), np.zeros((512, 512, 3), "uint8"), np.random.default_rng(0)
    answer = {"boxes": np.tile(rng.uniform(0, 64, (1, 20, 2)), 2), "scores": rng.random((1, 20))}
    answer |= {"classes": np.zeros((1, 20), "int32"), "count": [20], "masks": rng.random((1, 20, 28, 28))}
    answer = {name: np.asarray(x, "float32" if name in ("boxes", "masks") else None) for name, x in answer.items()}
    answer["boxes"][..., 2:] += 9
    monkeypatch.setattr(model, "predict_on_batch", lambda inputs: answer)
    looks = {"window": 64, "size": (128, 128), "merge": 1.0}
    found, peaks = {}, {}
    for pasted in (True, False):
        tracemalloc.start()
        found[pasted] = kc.detection.predict(model, scene, pasted=pasted, **looks)
        peaks[pasted] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    masks, count = found[False]["masks"], len(found[True]["scores"])
    assert count > 50 and masks.shape == (count, 28, 28) and masks.dtype == np.float32
    np.testing.assert_array_equal(list(each_pasted(masks, found[False]["boxes"], (512, 512))), found[True]["masks"])
    assert peaks[True] > count * 512 * 512 > 2 * peaks[False]


@pytest.mark.parametrize("picture, options, message", [
    (np.zeros((0, 50, 3)), {}, r"picture must be \(height, width, channels\). Received: shape \(0, 50, 3\)"),
    (np.zeros((20, 30, 3), complex), {}, "picture must be of real numbers. Received: dtype complex128"),
    (np.full((20, 30, 3), np.nan), {}, "picture must have finite values"),
    (np.full((20, 30, 3), 0.5), {}, "picture must be of 0..255, .* Received: float64 up to 0.5. Multiply it by 255"),
    (None, {"window": 4}, "window must be a side in whole pixels, or .*, of 8 at least. Received: 4"),
    (None, {"window": (16, 2.5)}, r"window must be a side in whole pixels, .* of 8 at least. Received: \(16, 2.5\)"),
    (None, {"window": 16, "stride": 0}, "stride must be a side in whole pixels, or .*, of 1 at least. Received: 0"),
    (None, {"stride": 8}, "stride needs a window, from which it is counted. Received: stride=8"),
    (None, {"size": 64}, "size must be two sides in whole pixels, of 1 at least. Received: 64"),
    (None, {"size": (0, 9)}, r"size must be two sides in whole pixels, of 1 at least. Received: \(0, 9\)"),
    (None, {"keep_ratio": False}, "size must be two sides in whole pixels, of 1 at least. Received: None"),
    (None, {"merge": -0.1}, "merge must be in 0..1. Received: -0.1"),
    (None, {"mask_threshold": 50}, "mask_threshold must be in 0..1. Received: 50"),
])  # fmt: skip
def test_odd_pictures_and_options_of_predictions(picture, options, message):
    picture = np.zeros((20, 30, 3), "uint8") if picture is None else picture
    with pytest.raises(ValueError, match=f"^{message}"):
        kc.detection.predict(small(), picture, **options)


@pytest.mark.slow
def test_the_exported_detector_answers_without_keras(tmp_path, detector, expected):
    pytest.importorskip("tensorflow")
    model = detector()
    kc.export_model(model, tmp_path / "saved", verbose=False)
    np.save(tmp_path / "image.npy", expected["image"])
    program = """
import sys
sys.modules["keras_convnextv2"] = sys.modules["keras"] = None  # importing them would fail
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
found = served.serve(np.load(sys.argv[2]))
other = served.serve(np.load(sys.argv[2])[:, :64, :96])
assert other["masks"].shape[-2:] == (64, 96)
np.savez(sys.argv[3], **{name: x.numpy() for name, x in found.items()})
"""
    command = [sys.executable, "-c", program, tmp_path / "saved", tmp_path / "image.npy", tmp_path / "found.npz"]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    for n in range(2):
        same(found, expected, "det", n)
        count = int(expected["det_count"][n])
        masks = np.unpackbits(expected["det_masks_packed"][n], axis=-1)[:count].reshape(-1, 96, 128)
        assert found["masks"].dtype == bool
        assert (found["masks"][n, :count] != masks).sum() <= 0.002 * masks.sum()
