"""How well detections agree with the truth: Pascal VOC's average precision, COCO's twelve numbers."""

import contextlib
import io

import numpy as np

from keras_convnextv2.detection.arrays import count_of

# What a picture's dict must hold beside its boxes, and what stands for the rest where it is not there.
REQUIRED = {"truths": {"classes": "int64"}, "detections": {"scores": "float64", "classes": "int64"}}
OPTIONAL = {"truths": {"difficult": False, "crowd": False, "area": np.nan}, "detections": {}}
NO_VERDICT = (np.zeros(0), np.zeros(0, bool), np.zeros(0, bool))  # a class without detections has something to join
SHORTEST = 6  # numbers of a polygon: three corners
SMALLEST_UNION = np.float32(1e-6)  # mmdetection's: boxes without area overlap by 0, not by 0 / 0

# Name: (array of pycocotools, the overlap that matches or None for all ten, size of the objects, how many detections
# of a picture count or None for max_detections), in COCO's order.
COCO_NUMBERS = {
    "ap": ("precision", None, "all", None),
    "ap50": ("precision", 0.5, "all", None),
    "ap75": ("precision", 0.75, "all", None),
    "ap_small": ("precision", None, "small", None),
    "ap_medium": ("precision", None, "medium", None),
    "ap_large": ("precision", None, "large", None),
    "ar1": ("recall", None, "all", 1),
    "ar10": ("recall", None, "all", 10),
    "ar": ("recall", None, "all", None),
    "ar_small": ("recall", None, "small", None),
    "ar_medium": ("recall", None, "medium", None),
    "ar_large": ("recall", None, "large", None),
}


def voc_average_precision(truths, detections, classes, iou=0.5, points=11, plus_one=False):
    """Pascal VOC's average precision of every class, and their mean.

    Detections of a class are ranked over all pictures, the earlier one first where scores tie. One is right if the
    object of its class that it overlaps most is overlapped by `iou` or more and was not found before. Where that
    object is difficult or a crowd, the detection counts neither way. Every other one is wrong.

    Args:
        truths: a list of dicts, one a picture: "boxes", "classes" and, if there are any, "difficult" and "crowd".
        detections: a list of dicts, one a picture, in the same order: "boxes", "scores", "classes".
        classes: how many, or their names.
        points: 11, the mean of the best precisions from the recalls 0, 0.1, ... 1 on (VOC 2007), or "all", the area
            below the curve (VOC 2012).
        plus_one: a width is x2 - x1 + 1, as in VOC's own program and in the published numbers of SAR sets.
    Returns:
        {"map", "ap"}: fractions of one. "ap" is a list, a number a class, NaN for classes without objects that count;
        "map" is the mean of the others, 0 if there are none.
    Raises:
        ValueError: lists or arrays of different lengths, a class outside of 0..classes - 1, unknown points.
    Shapes:
        boxes (n, 4) as x1 y1 x2 y2, everything else (n,).
    Source:
        mmdetection's eval_map, with its dtypes: overlaps, precisions and averages are float32, recalls float64. Its
        sort is not stable: where scores tie, its own numbers depend on numpy's build.
    """
    if points not in AVERAGES:
        raise ValueError(f"points must be one of {list(AVERAGES)}. Received: {points!r}.")
    count = count_of(classes)
    truths, detections = _read(truths, detections, count)
    objects = np.zeros(count, "int64")  # that count
    verdicts = [[NO_VERDICT] for _ in range(count)]  # of each class (scores, right, wrong) a picture
    for truth, found in zip(truths, detections, strict=True):
        ignored = truth["difficult"] | truth["crowd"]
        objects += np.bincount(truth["classes"][~ignored], minlength=count)
        for k in np.unique(found["classes"]):
            here, there = found["classes"] == k, truth["classes"] == k
            overlaps = _overlaps(found["boxes"][here], truth["boxes"][there], plus_one)
            scores = found["scores"][here]
            verdicts[k].append((scores, *_right_and_wrong(overlaps, scores, ignored[there], iou)))
    average = AVERAGES[points]
    ap = [_average_precision(*of_class, average) for of_class in zip(verdicts, objects, strict=True)]
    known = np.array(ap, "float32")[objects > 0]
    return {"map": float(known.mean()) if known.size else 0.0, "ap": ap}


def coco_metrics(truths, detections, classes, kind="bbox", max_detections=100):
    """COCO's twelve numbers, of boxes or of masks, by pycocotools.

    "difficult" plays no part here, "crowd" does: detections upon a crowd count neither way. An object is small up to
    32**2 pixels and large from 96**2 on; its area is the given one, else its mask's, else its box's. A detection's is
    that of what is compared.

    Args:
        truths: a list of dicts, one a picture: "boxes", "classes", if there are any "crowd", if they are known "area",
            and with masks "size" (height, width) and "masks": bool arrays (H, W), RLE dicts of COCO or lists of
            polygons, one an object.
        detections: a list of dicts, one a picture, in the same order: "boxes", "scores", "classes", and "masks" if
            they are compared.
        classes: how many, or their names.
        kind: "bbox", or "segm" for masks.
        max_detections: how many of a picture and class count, the best first. COCO's is 100.
    Returns:
        {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar", "ar_small", "ar_medium",
        "ar_large", "ap_per_class"}: fractions of one, in COCO's order; "ar" is its AR100. The last is a list. NaN
        stands where there are no objects (pycocotools: -1).
    Raises:
        ValueError: lists or arrays of different lengths, a class outside of 0..classes - 1, masks that are missing or
            of another size than their picture, an unknown kind.
        ImportError: without pycocotools.
    Shapes:
        boxes (n, 4) as x1 y1 x2 y2, masks (n, H, W) or n of the other forms, everything else (n,).
    """
    if kind not in ("bbox", "segm"):
        raise ValueError(f"kind must be 'bbox' or 'segm'. Received: {kind!r}.")
    tools = pycocotools()
    count = count_of(classes)
    truths, detections = _read(truths, detections, count)
    sizes = [tuple(np.array(truth.get("size", ()), int).tolist()) for truth in truths]
    sides = {"truths": truths, "detections": detections}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        sets = [_data_set(tools, side, pictures, sizes, kind, count) for side, pictures in sides.items()]
        evaluation = tools.cocoeval.COCOeval(*sets, kind)
        evaluation.params.maxDets = sorted({1, 10, max_detections})
        evaluation.evaluate()
        evaluation.accumulate()
    found = {name: _coco_number(evaluation, max_detections, *row) for name, row in COCO_NUMBERS.items()}
    per_class = [_coco_number(evaluation, max_detections, *COCO_NUMBERS["ap"], k) for k in range(count)]
    return {**found, "ap_per_class": per_class}


def _read(truths, detections, count):
    """Both lists with every array checked and every optional one there."""
    if len(truths) != len(detections):
        raise ValueError(
            "truths and detections must have a dict for each picture. "
            f"Received: {len(truths)} truths and {len(detections)} detections."
        )
    lists = {"truths": truths, "detections": detections}
    return [[_arrays(side, i, given, count) for i, given in enumerate(each)] for side, each in lists.items()]


def _arrays(side, number, given, count):
    where = f"{side} of picture {number}"
    names = ("boxes", *REQUIRED[side])
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{where} must have {', '.join(names)}. Missing: {', '.join(missing)}.")
    boxes = np.asarray(given["boxes"], "float64")
    if boxes.size and boxes.shape[1:] != (4,):
        raise ValueError(f"{where}: boxes must be (n, 4). Received: {boxes.shape}.")
    boxes = boxes.reshape(-1, 4)
    found = {name: np.asarray(given[name], dtype) for name, dtype in REQUIRED[side].items()}
    for name, default in OPTIONAL[side].items():
        found[name] = np.asarray(given.get(name, [default] * len(boxes)), type(default))
    for name, values in found.items():
        if values.shape != boxes.shape[:1]:
            raise ValueError(f"{where}: {len(boxes)} boxes need as many {name}. Received: {name} {values.shape}.")
    bad = found["classes"][(found["classes"] < 0) | (found["classes"] >= count)]
    if bad.size:
        raise ValueError(f"{where}: classes must be in 0..{count - 1}, without padding. Received: {bad[0]}.")
    found["boxes"] = boxes
    return found | {name: given[name] for name in ("masks", "size") if given.get(name) is not None}


def _overlaps(boxes, others, plus_one):
    """Intersection over union in float32, (n, 4) and (m, 4) -> (n, m). In numpy, since metrics run on no backend."""
    more = np.float32(plus_one)
    boxes, others = boxes.astype("float32")[:, None], others.astype("float32")[None]
    top_left, bottom_right = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    inside = np.maximum(bottom_right - top_left + more, 0).prod(-1)
    area, other_area = ((b[..., 2:] - b[..., :2] + more).prod(-1) for b in (boxes, others))
    return inside / np.maximum(area + other_area - inside, SMALLEST_UNION)


def _right_and_wrong(overlaps, scores, ignored, iou):
    """Which of a picture's detections of a class are right and which are wrong; (n, m), (n,), (m,) -> (n,), (n,)."""
    right = np.zeros(len(scores), bool)
    if not ignored.size:
        return right, ~right
    order = np.argsort(ignored, kind="stable")  # of two objects that overlap alike, one that counts is the best
    best = order[overlaps[:, order].argmax(1)]
    near = overlaps.max(1) >= np.float32(iou)
    neither = near & ignored[best]
    ranked = np.argsort(-scores, kind="stable")
    ranked = ranked[(near & ~neither)[ranked]]
    right[ranked[np.unique(best[ranked], return_index=True)[1]]] = True  # the first upon each object
    return right, ~right & ~neither


def _average_precision(verdicts, objects, average):
    if not objects:
        return float("nan")
    scores, right, wrong = (np.concatenate(column) for column in zip(*verdicts, strict=True))
    ranked = np.argsort(-scores, kind="stable")
    right, wrong = np.cumsum(right[ranked]), np.cumsum(wrong[ranked])
    precision = right.astype("float32") / np.maximum(right + wrong, 1).astype("float32")
    return float(average(right / objects, precision))


def _eleven_points(recall, precision):
    # 3 * 0.1 is above 0.3, as in the reference: a recall of exactly 3/10 does not reach the fourth point.
    best = [precision[recall >= 0.1 * i].max(initial=0) for i in range(11)]
    return sum(best, np.float32(0)) / np.float32(11)


def _area(recall, precision):
    """Below the curve of the best precision at this recall or a higher one."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    best = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    return np.float32(np.sum(np.diff(recall) * best))


AVERAGES = {11: _eleven_points, "all": _area}


def pycocotools():
    """The package with all that COCO's numbers need of it; called early, a program without it ends before it works."""
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
        import pycocotools.mask
    except ImportError as error:
        raise ImportError(
            'coco_metrics needs pycocotools: pip install pycocotools or "keras_convnextv2[detection]"'
        ) from error
    return pycocotools


def _data_set(tools, side, pictures, sizes, kind, count):
    """One side as pycocotools has it. Made here, not by its loadRes, which needs a detection and takes boxes first."""
    rows = []
    for number, (picture, size) in enumerate(zip(pictures, sizes, strict=True)):
        compared = _shapes_and_areas(tools.mask, f"{side} of picture {number}", picture, size, kind)
        columns = {"category_id": picture["classes"].tolist(), **compared}
        if side == "truths":
            columns["iscrowd"] = picture["crowd"].tolist()
        else:
            columns["score"] = picture["scores"].tolist()
        rows += [
            {"image_id": number, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)
        ]
    made = tools.coco.COCO()
    made.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(size or (0, 0) for size in sizes)],
        "categories": [{"id": k} for k in range(count)],
        "annotations": [{"id": i, **row} for i, row in enumerate(rows, 1)],  # 0 means "not matched" in pycocotools
    }
    made.createIndex()
    return made


def _shapes_and_areas(tools, where, picture, size, kind):
    """What is compared and how large it is; a truth's area may be told, or be its mask's though boxes are compared."""
    corners = picture["boxes"]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)  # x, y, width, height
    told = picture.get("area", np.nan)
    by_mask = kind == "segm" or ("area" in picture and "masks" in picture and np.isnan(told).any())
    masks = _outlines(tools, where, picture, size) if by_mask else None
    area = tools.area(masks) if masks else boxes[:, 2:].prod(1)
    shapes = {"segmentation": masks} if kind == "segm" else {"bbox": boxes.tolist()}
    return {**shapes, "area": np.where(np.isnan(told), area, told).tolist()}


def _outlines(tools, where, picture, size):
    """The masks of a picture as COCO's compressed run lengths."""
    masks, count = picture.get("masks", ()), len(picture["boxes"])
    if len(masks) != count:
        raise ValueError(f"{where}: {count} boxes need as many masks. Received: {len(masks)} masks.")
    if count and not size:
        raise ValueError(f"{where} has masks: its truths must have size (height, width).")
    found = []
    for i, mask in enumerate(masks):
        if isinstance(mask, dict):  # run lengths, as a list or compressed
            its_size = tuple(mask["size"])
            found.append(mask if isinstance(mask["counts"], (str, bytes)) else tools.frPyObjects(mask, *its_size))
        elif isinstance(mask, (list, tuple)):  # polygons
            its_size, polygons = size, [polygon for polygon in mask if len(polygon) >= SHORTEST]
            rows = tools.frPyObjects(polygons, *size) if polygons else [tools.encode(np.zeros(size, "uint8", "F"))]
            found.append(tools.merge(rows))
        else:
            mask = np.asarray(mask, bool)
            its_size = mask.shape
            found.append(tools.encode(np.asfortranarray(mask, "uint8")))
        if its_size != size:
            raise ValueError(f"{where}: mask {i} must have its picture's size {size}. Received: {its_size}.")
    return found


def _coco_number(evaluation, max_detections, what, overlap, size, limit, of_class=slice(None)):
    """The mean of all defined values of one of pycocotools' arrays, which end in (classes, sizes, limits)."""
    params = evaluation.params
    column = params.areaRngLbl.index(size), params.maxDets.index(limit or max_detections)
    values = evaluation.eval[what][..., of_class, *column]  # overlaps first
    if overlap is not None:
        values = values[np.isclose(params.iouThrs, overlap)]
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
