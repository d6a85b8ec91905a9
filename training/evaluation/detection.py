"""Average precision of a detector on photos of any size."""

import keras
import numpy as np

from keras_convnextv2.detection import coco_metrics, voc_average_precision
from keras_convnextv2.detection import predict as found_in
from keras_convnextv2.detection.tiling import each_pasted

DETECTIONS_OF_COCO = 100  # a photo, at least: what COCO's numbers count
NUMBERS = {"ap": "ap", "ap50": "ap50", "ap75": "ap75"}  # of COCO's twelve, those that a log shows


class Finder:
    """What `kc.detection.predict` asks of a model, of a compiled function and certain weights."""

    def __init__(self, model, predict, weights=None):
        self.backbone, self.least_side, self.nms_threshold = model.backbone, model.least_side, model.nms_threshold
        self._predict, self._weights = predict, weights

    def predict_on_batch(self, inputs):
        return keras.tree.map_structure(keras.ops.convert_to_numpy, self._predict(inputs, self._weights))


def look_of(config):
    """How photos are shown, as options of `kc.detection.predict`: by a Detect config, or by the recipe of a run."""
    look = {"keep_ratio": config["keep_ratio"]}
    look["size"] = (config["evaluation_resize"] or None) if config["keep_ratio"] else config["image_size"]
    if config["tile"]:
        look |= {"window": config["tile"], "stride": config["tile"] - config["gap"], "merge": config["merge"]}
    return look


def results(finder, source, look, done=None):
    """(truths, detections) of a source of photos with objects, as the metrics take them, a dict a photo.

    Args:
        finder: a Finder, or a `MaskRCNN`.
        look: from `look_of`.
        done: called with the number of photos after each.
    """
    truths, detections = [], []
    for index in range(source.count):
        picture, objects = source.opened(index)
        found = found_in(finder, picture.array, **look, pasted=False)
        truth = {"boxes": objects.boxes, "classes": objects.classes, "area": objects.area, "size": picture.size}
        truth["crowd"] = ~objects.trained  # what is not trained on counts neither way
        masks = objects.masks(picture.size) if "masks" in found else None
        if masks is None:  # then boxes are compared alone
            found.pop("masks", None)
        else:
            truth["masks"] = [_encoded(mask) for mask in masks]
            found["masks"] = [_encoded(mask) for mask in each_pasted(found["masks"], found["boxes"], picture.size)]
        truths.append(truth)
        detections.append(found)
        if done:
            done(index + 1)
    if not all("masks" in truth for truth in truths):  # of a picture without objects there are masks, none of them
        for one in (*truths, *detections):
            one.pop("masks", None)
    return truths, detections


def _encoded(mask):
    """A mask as COCO's RLE: of a whole set the masks themselves would fill the memory."""
    from pycocotools import mask as coder

    return coder.encode(np.asfortranarray(mask, "uint8"))


def twelve(truths, detections, classes, most=DETECTIONS_OF_COCO):
    """{"box": COCO's numbers, "mask": the same with masks}."""
    kinds = {"box": "bbox"} | ({"mask": "segm"} if "masks" in truths[0] else {})
    most = max(most, DETECTIONS_OF_COCO)
    return {name: coco_metrics(truths, detections, classes, kind, most) for name, kind in kinds.items()}


def numbers(truths, detections, classes, most=DETECTIONS_OF_COCO, plus_one=False):
    """{"box_ap", "box_ap50", "box_ap75", "mask_ap", ..., "ap07"} in percent; 0 where nothing can be found."""
    found = {
        f"{kind}_{name}": 100.0 * np.nan_to_num(values[key])
        for kind, values in twelve(truths, detections, classes, most).items()
        for name, key in NUMBERS.items()
    }
    found["ap07"] = 100.0 * voc_average_precision(truths, detections, classes, plus_one=plus_one)["map"]
    return {name: float(value) for name, value in found.items()}
