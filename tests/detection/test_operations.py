"""Single operations of a detector against the reference's numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2.detection import boxes as b
from keras_convnextv2.detection import proposals, roi, tiling
from keras_convnextv2.pictures import resized, scaled_size
from tests.gradients import gradients_of

STDS = (0.1, 0.1, 0.2, 0.2)
to_numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def expected(oracle):
    with np.load(oracle / "detection" / "det_ops_expected.npz") as file:
        return dict(file)


def close(ours, theirs, atol=1e-5, rtol=1e-5):
    np.testing.assert_allclose(to_numpy(ours), theirs, atol=atol, rtol=rtol)


def test_overlaps(expected):
    close(b.overlaps(expected["iou_a"], expected["iou_b"]), expected["iou"], 1e-6)
    close(b.overlaps(expected["iou_a"], expected["iou_b"], of="first"), expected["iof"], 1e-6)


def test_encoding_and_decoding(expected):
    have, want = expected["enc_boxes"], expected["enc_gts"]
    close(b.encode(have, want), expected["enc_deltas"])
    close(b.encode(have, want, STDS), expected["enc_deltas_roi"], 1e-4)
    have = expected["dec_boxes_in"]
    close(b.decode(have, expected["dec_deltas"]), expected["dec_boxes"], 1e-3)
    close(b.decode(have, expected["dec_deltas_roi"], STDS), expected["dec_boxes_roi"], 1e-3)
    close(b.decode(have, expected["dec_deltas"], size=expected["dec_image_hw"]), expected["dec_boxes_clipped"], 1e-3)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression(expected, threshold):
    boxes, name = expected["nms_boxes"][None], f"{threshold:.1f}".replace(".", "")

    def kept(scores, groups=None):
        stays = to_numpy(b.suppress(boxes, expected[scores][None], threshold, groups=groups))[0]
        order = np.argsort(-expected[scores], kind="stable")
        return [i for i in order if stays[i]]

    assert kept("nms_scores") == list(expected[f"nms_keep_{name}"])
    assert kept("soft_scores") == list(expected[f"nms_unique_keep_{name}"])
    assert kept("soft_scores", expected["nms_classes"][None]) == list(expected[f"batched_nms_keep_{name}"])


def selected(boxes, scores, **options):
    found = b.select(boxes[None], scores[None], threshold=0.0, **options)
    return {name: to_numpy(x)[0] for name, x in found.items()}


@pytest.mark.parametrize("name, scores, overlap, least", [
    ("soft_linear", "soft_scores", 0.5, 1e-3), ("soft_linear_03", "soft_scores", 0.3, 0.05)
])  # fmt: skip
def test_soft_suppression(expected, name, scores, overlap, least):
    dets, inds = expected[f"{name}_dets"], expected[f"{name}_inds"]
    found = selected(
        expected["nms_boxes"][:, None], expected[scores][:, None], count=61, overlap=overlap, soft=True, least=least
    )
    assert found["count"] == len(inds) and list(found["rows"][: len(inds)]) == list(inds)
    close(found["boxes"][: len(inds)], dets[:, :4])
    close(found["scores"][: len(inds)], dets[:, 4], 1e-6)
    assert (found["classes"][len(inds) :] == -1).all() and not found["boxes"][len(inds) :].any()


def test_soft_suppression_of_equal_scores_and_of_classes(expected):
    boxes, options = expected["nms_boxes"][:, None], {"count": 61, "overlap": 0.5, "soft": True}
    kinds = expected["nms_classes"][:, None] == np.arange(expected["nms_classes"].max() + 1)
    of_classes = np.where(kinds, expected["soft_scores"][:, None], 0.0).astype("float32")
    found, dets = selected(boxes, of_classes, **options), expected["batched_soft_dets"]
    assert found["count"] == len(dets) and list(found["rows"][: len(dets)]) == list(expected["batched_soft_keep"])
    close(np.c_[found["boxes"], found["scores"]][: len(dets)], dets)
    # of two with one score either may lower the other, by as much
    found, dets = selected(boxes, expected["nms_scores"][:, None], **options), expected["soft_ties_dets"]
    assert found["count"] == len(dets) and set(found["rows"][: len(dets)]) == set(expected["soft_ties_inds"])
    close(np.sort(found["scores"][: len(dets)]), np.sort(dets[:, 4]))


@pytest.mark.parametrize("soft", [False, True])
def test_selection_of_all_classes(expected, soft):
    name = "mc_soft" if soft else "mc"
    options = {"count": 20, "threshold": 0.05, "overlap": 0.5, "soft": soft}
    found = b.select(expected["mc_boxes"][None], expected["mc_scores"][None, :, :-1], **options)
    found = {key: to_numpy(x)[0] for key, x in found.items()}
    assert list(found["classes"]) == list(expected[f"{name}_labels"])
    close(np.c_[found["boxes"], found["scores"]], expected[f"{name}_dets"])


def test_features_of_regions(expected):
    features, rois, stride = expected["ra_features"], expected["ra_rois"], 1 / expected["ra_scale"]
    for size in (7, 14):
        for ratio in (1, 2):
            if f"ra_{size}_sr{ratio}" not in expected:
                continue
            found = to_numpy(roi.roi_align([features], both(rois), [stride], size, ratio))
            close(of_each(found, rois), expected[f"ra_{size}_sr{ratio}"])


def both(rois):
    """All regions for both pictures of the batch."""
    return np.stack([rois[:, 1:]] * 2)


def of_each(found, rois):
    return np.stack([found[int(n), i] for i, n in enumerate(rois[:, 0])])


def test_gradient_of_features(expected):
    layer = keras.layers.Layer()
    weights = layer.add_weight(shape=expected["ra_features"].shape, name="maps")
    weights.assign(expected["ra_features"])
    rois, slopes = expected["ra_rois"], expected["ra_grad_weights"]
    picked = (rois[:, 0] == np.arange(2)[:, None])[:, :, None, None, None] * slopes[None]

    def loss():
        return ops.sum(ops.multiply(roi.roi_align([ops.convert_to_tensor(weights)], both(rois), [4.0], 7), picked))

    close(gradients_of(loss, layer)[weights.path], expected["ra_grad_features"], 1e-4)


def test_levels(expected):
    assert list(to_numpy(roi.level_of(expected["level_boxes"], 4))) == list(expected["level"])


def test_masks_into_pictures(expected):
    soft = roi.paste(expected["paste_probs"], expected["paste_boxes"], tuple(expected["paste_hw"]))
    close(soft, expected["paste_soft"], 1e-5)
    clear = abs(expected["paste_soft"] - 0.5) > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal((to_numpy(soft) >= 0.5)[clear], expected["paste_mask"][clear])


def test_mask_targets(expected):
    masks, boxes = expected["mt_masks"][None], expected["mt_boxes"][None]
    regions = np.broadcast_to(np.array([0, 0, 70, 60], "float32"), (1, 4, 4))
    found = to_numpy(roi.mask_targets(masks, regions, boxes, expected["mt_inds"][None].astype("int32"), 28))[0]
    np.testing.assert_array_equal(found, expected["mt_targets"])


@pytest.mark.parametrize("name, positive, negative, low_quality", [
    ("rpn", 0.7, 0.3, True), ("rcnn", 0.5, 0.5, True), ("rcnn_no_lowq", 0.5, 0.5, False)
])  # fmt: skip
def test_assignment(expected, name, positive, negative, low_quality):
    least = 0.3 if name == "rpn" else 0.5
    objects = expected["assign_gts"][None]
    found, most = proposals.assign(
        objects, np.ones((1, 7), bool), expected["assign_boxes"],
        positive=positive, negative=negative, least=least, low_quality=low_quality,
    )  # fmt: skip
    np.testing.assert_array_equal(to_numpy(found)[0], expected[f"assign_{name}"])
    close(to_numpy(most)[0], expected["assign_max_iou"], 1e-6)


def test_padded_objects_and_boxes_apart_take_no_part(expected):
    options = {"positive": 0.7, "negative": 0.3, "least": 0.3, "low_quality": True}
    objects, boxes = expected["assign_gts"], expected["assign_boxes"]
    padded = np.concatenate([objects, np.zeros((3, 4), "float32")])[None]
    candidates = np.arange(len(boxes))[None] % 2 == 0
    found, _ = proposals.assign(padded, np.arange(10)[None] < 7, boxes, candidates=candidates, **options)
    alone, _ = proposals.assign(objects[None], np.ones((1, 7), bool), boxes[::2], **options)
    np.testing.assert_array_equal(to_numpy(found)[0, ::2], to_numpy(alone)[0])
    assert (to_numpy(found)[0, 1::2] == proposals.IGNORED).all()


def test_samples():
    rng = np.random.default_rng(0)
    assigned = np.array([[1, 2, 0, 0, 0, -1, 3, 0, 0, 0], [0, 0, 0, 0, 1, -1, -1, -1, -1, -1]], "int32")
    chosen, positive, valid = map(to_numpy, proposals.sample(assigned, 6, 0.34, rng.random((2, 10)).astype("float32")))
    assert [len(set(row)) for row in chosen] == [6, 6]
    assert positive.sum(1).tolist() == [2, 1] and valid.sum(1).tolist() == [6, 5]
    for n in range(2):
        taken = assigned[n, chosen[n]]
        assert (taken[positive[n]] > 0).all() and (taken[valid[n] & ~positive[n]] == 0).all()
    counts = np.zeros(10)
    for _ in range(300):
        chosen, positive, _ = map(
            to_numpy, proposals.sample(assigned[:1], 4, 0.25, rng.random((1, 10)).astype("float32"))
        )
        counts[chosen[0][positive[0]]] += 1
    assert counts[[0, 1, 6]].sum() == 300 and counts[[0, 1, 6]].min() > 70


def test_sizes_of_pictures(expected):
    for limits in ((1333, 800), (1024, 1024), (512, 512)):
        for have, want in zip(expected["size_hw_in"], expected["size_hw_{}_{}".format(*limits)], strict=True):
            assert scaled_size(tuple(have), limits, 1.0) == tuple(want)


def test_a_picture_is_resized_as_by_the_reference(expected):
    given = expected["pre_image_bgr"]
    for name in ("pre_resized_bgr", "pre_shrunk_bgr"):
        found = resized(given, expected[name].shape[:2])
        assert found.dtype == np.uint8 and abs(found.astype(int) - expected[name]).max() <= 1  # it rounds in 11 bits


def test_tiles_are_merged_as_one_suppression_would():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 20, (200, 2))], 1).astype("float32")
    found = {"boxes": boxes, "scores": rng.random(200).astype("float32"), "classes": rng.integers(0, 3, 200)}
    merged = tiling._merged(found, 0.3)
    stays = b.suppress(boxes[None], found["scores"][None], 0.3, groups=found["classes"][None].astype("int32"))
    assert sorted(merged["scores"]) == sorted(found["scores"][to_numpy(stays)[0]])
    assert (np.diff(merged["scores"]) <= 0).all() and 10 < len(merged["scores"]) < 200
