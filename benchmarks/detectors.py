"""What each library does for a detector: a training step, an answer, or what stands between its layers."""

import numpy as np

from benchmarks.contestants import LEARNING_RATE, keras_versions, versions

CLASSES, OBJECTS = 80, 10
THRESHOLD = 0.0125  # all classes of an untrained head have about 1 / 81: so a part of the scores is above it


def pictures(batch, side):
    """Normalised pictures, and boxes (B, n, 4), classes (B, n) and masks (B, n, H, W) of objects in them."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6 * side, (batch, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05 * side, 0.4 * side, corner.shape)], -1).astype("float32")
    at = np.arange(side)
    x1, y1, x2, y2 = (boxes[..., n, None] for n in range(4))
    masks = ((at >= y1) & (at < y2))[..., None] & ((at >= x1) & (at < x2))[..., None, :]
    images = rng.uniform(-2, 2, (batch, side, side, 3)).astype("float32")
    return images, boxes, rng.integers(0, CLASSES, (batch, OBJECTS)).astype("int32"), masks.astype("uint8")


def mask_rcnn(task, size, batch, side, dtype, jit=None, part="whole"):
    """This package's; `part` "regions": suppression and RoIAlign of an inference alone, of maps that are given."""
    import keras

    import keras_convnextv2 as kc

    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    shape = {"input_shape": (side, side, 3), "include_preprocessing": False, "dtype": policy}
    backbone = getattr(kc, f"ConvNeXtV2{size.capitalize()}")(include_top=False, **shape)
    model = kc.MaskRCNN(backbone, CLASSES, score_threshold=THRESHOLD)
    images, boxes, classes, masks = pictures(batch, side)
    targets = {"boxes": boxes, "classes": classes, "valid": np.ones(classes.shape, bool), "masks": masks}
    if part == "regions":
        model, images = regions(model, images)
    model.compile(keras.optimizers.AdamW(LEARNING_RATE), jit_compile="auto" if jit is None else jit)
    if task == "train":
        return lambda: model.train_on_batch(images, targets), keras_versions()
    return lambda: model.predict_on_batch(images), keras_versions()


def regions(model, images):
    """(a model from what the layers of a detector say to what becomes of it, that for some images)."""
    import keras
    from keras import ops

    from keras_convnextv2.detection.boxes import decode, select
    from keras_convnextv2.detection.mask_rcnn import BOX_SIZE, MASK_SIZE, STDS
    from keras_convnextv2.detection.proposals import proposals_of

    class Regions(keras.Model):
        def call(self, inputs, training=None):
            maps = [inputs[f"map_{n}"] for n in range(5)]
            asked = ([inputs[f"{kind}_{n}"] for n in range(5)] for kind in ("logits", "deltas"))
            sizes = ops.ones((ops.shape(maps[0])[0], 1)) * ops.convert_to_tensor([list(images.shape[1:3])], "float32")
            boxes, _, there = proposals_of(*asked, model._anchors(maps), sizes, count=model.proposals)
            features = model._features(maps, boxes, BOX_SIZE)
            changed = decode(boxes[:, :, None], inputs["changes"], STDS, sizes[:, None, None])
            rules = {"threshold": THRESHOLD, "overlap": model.nms_threshold}
            scores = inputs["scores"] * ops.cast(there, "float32")[..., None]
            found = select(changed, scores, model.max_detections, **rules)
            return ops.mean(features), ops.mean(model._features(maps, found["boxes"], MASK_SIZE))

    maps = list(model.maps(ops.convert_to_tensor(images)).values())
    logits, deltas = (list(x) for x in model._asked(maps))
    rng = np.random.default_rng(1)
    count = (len(images), model.proposals, CLASSES)
    given = {"scores": rng.dirichlet(np.full(CLASSES + 1, 50.0), count[:2])[..., :-1].astype("float32")}
    given["changes"] = rng.normal(0, 0.1, (*count, 4)).astype("float32")
    for name, values in (("map", maps), ("logits", logits), ("deltas", deltas)):
        given |= {f"{name}_{n}": ops.convert_to_numpy(x) for n, x in enumerate(values)}
    return Regions(), given


def torchvision_mask_rcnn(task, size, batch, side, dtype):
    """torchvision's, with a network of timm below its pyramid, as its users write it; anchors and widths as ours."""
    import timm
    import torch
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    class Backbone(torch.nn.Module):
        out_channels = 256

        def __init__(self):
            super().__init__()
            self.body = timm.create_model(f"convnextv2_{size}", features_only=True)
            dims = self.body.feature_info.channels()
            self.fpn = FeaturePyramidNetwork(dims, self.out_channels, extra_blocks=LastLevelMaxPool())

        def forward(self, images):
            return self.fpn({str(n): x for n, x in enumerate(self.body(images))})

    anchors = AnchorGenerator(tuple((32 * 2**n,) for n in range(5)), ((0.5, 1.0, 2.0),) * 5)
    pool = {"featmap_names": ["0", "1", "2", "3"], "sampling_ratio": 2}
    model = MaskRCNN(
        Backbone(),
        CLASSES + 1,
        min_size=side,
        max_size=side,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(output_size=7, **pool),
        mask_roi_pool=MultiScaleRoIAlign(output_size=14, **pool),
        box_score_thresh=THRESHOLD,
    )
    images, boxes, classes, masks = pictures(batch, side)
    images = list(torch.tensor(images).permute(0, 3, 1, 2))
    targets = [
        {
            "boxes": torch.tensor(boxes[n]),
            "labels": torch.tensor(classes[n]).long() + 1,
            "masks": torch.tensor(masks[n]),
        }
        for n in range(batch)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    model.train(task == "train")

    def train():
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    def predict():
        with torch.no_grad():
            model(images)

    return train if task == "train" else predict, versions("torchvision", "timm", "torch")
