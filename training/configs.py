"""The hyper-parameters of a run: frozen dataclasses, where the string under a field is its help text."""

import dataclasses

from keras_convnextv2.layers import visible_count
from keras_convnextv2.preprocessing import CROP_FRACTION
from keras_convnextv2.segmentation.losses import AVERAGES
from keras_convnextv2.sizes import DEFAULT_SIDE, SIZES
from training.data.augmentation import CROPS
from training.data.folder import HELD_OUT
from training.data.randaugment import RandAugment
from training.devices import STRATEGIES
from training.fields import nearest, require, require_types
from training.optimizers import LADDERS, OPTIMIZERS

CHOICES = ("last", "best")
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")


def _percent_hint(share):
    return f"Did you mean {share / 100}?" if 1 < share <= 100 else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What every program has."""

    size: str
    "the network: atto, femto, pico, nano, tiny, base, large or huge"
    depths: tuple[int, ...] = ()
    "blocks of each stage, for a network that is none of the sizes; empty: those of `size`"
    dims: tuple[int, ...] = ()
    "channels of each stage; empty: those of `size`"
    stem_patch_size: int = 4
    "side of the stem's patches: 4, or 1 or 2 for small pictures"
    channels: int = 3
    "colours of the images"

    batch_size: int = 1024
    "images of one update of the weights, over all devices and all parts"
    accumulation: int = 1
    "parts in which a batch is worked off, to save memory"
    epochs: int = 100
    "passes over the images, each a whole number of batches"
    steps: int = 0
    "updates of the weights; 0: as many as the epochs have"
    warmup_epochs: float = 0.0
    "epochs in which the rate climbs from 0; with `steps`, the same share of those"
    optimizer: str = "adamw"
    "adamw, or dadapt_adam (D-Adaptation Adam), which finds the rate itself"
    base_lr: float = 1.5e-4
    "adamw: rate for 256 images, the peak is base_lr * batch_size / 256; dadapt_adam: the peak, a factor, as a rule 1"
    min_lr: float = 0.0
    "where the cosine ends"
    weight_decay: float = 0.05
    "decoupled decay of kernels; norms, biases and GRN do not decay"
    beta_1: float = 0.9
    "of the optimizer: memory of the mean"
    beta_2: float = 0.999
    "of the optimizer: memory of the square"
    epsilon: float = 1e-8
    "of the optimizer: added to the root, with adamw to the corrected one, as in torch"
    clip_norm: float | None = None
    "longest gradient (norm over all weights); none: never shortened"
    ema: float | None = None
    "keep this average of the weights and evaluate it, at most over the last tenth of the steps; none: no average"
    choose: str = "last"
    "weights to save at the end: last, or best by the evaluations; of these and their average, the better ones"

    devices: int | None = None
    "devices of this machine; none: all there are, of a CPU one; on a CPU as many as asked for are made of it"
    strategy: str = "auto"
    "of TensorFlow: one, mirrored, multi_worker or tpu; auto: what the machine and TF_CONFIG or Slurm say"
    dtype: str = "float32"
    "float32, mixed_bfloat16 or mixed_float16, whose loss is scaled"
    remat: bool = False
    "recompute each block in the backward pass: less memory, more time"
    workers: int = 0
    "threads that prepare pictures; 0: one a core"
    worker_processes: int = 0
    "processes that prepare pictures, in place of threads; 0: threads"
    download: bool = False
    "download and prepare tfds:NAME where it is not prepared"
    jit: bool | None = None
    "let XLA compile the step; none: where it pays, which is on JAX and, with TensorFlow, not on CPUs"
    seed: int = 0
    "decides everything random"
    log_every: int = 20
    "steps between two lines of the log"
    evaluate_every: int = 1
    "epochs between two evaluations; 0: only at the end"
    keep_checkpoints: int = 2
    "how many of the newest checkpoints stay"
    max_bad_steps: int = 10
    "stop after this many steps in a row whose loss or gradient is not finite"

    def __post_init__(self):
        require_types(self)
        require(self.size in SIZES, f"size must be one of {', '.join(SIZES)}", self.size, nearest(self.size, SIZES))
        same_length = len(self.depths) == len(self.dims)
        require(same_length, "depths and dims must come together, one each a stage", (self.depths, self.dims))
        for name in ("batch_size", "accumulation", "epochs", "channels", "log_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        whole = ("steps", "seed", "workers", "worker_processes", "evaluate_every")
        for name in (*whole, "warmup_epochs", "base_lr", "min_lr", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        for name in ("max_bad_steps", "stem_patch_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        require(self.epsilon > 0, "epsilon must be positive", self.epsilon)
        for name in ("beta_1", "beta_2"):
            require(0 < getattr(self, name) < 1, f"{name} must be in (0, 1)", getattr(self, name))
        rule = f"optimizer must be one of {', '.join(OPTIMIZERS)}"
        require(self.optimizer in OPTIMIZERS, rule, self.optimizer, nearest(self.optimizer, OPTIMIZERS))
        divides = self.batch_size % self.accumulation == 0
        require(divides, f"accumulation must divide batch_size {self.batch_size}", self.accumulation)
        shorter = self.warmup_epochs < self.epochs
        require(shorter, f"warmup_epochs must be less than epochs {self.epochs}", self.warmup_epochs)
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm must be positive or none", self.clip_norm)
        require(self.ema is None or 0 < self.ema < 1, "ema must be in (0, 1) or none", self.ema)
        require(self.devices is None or self.devices >= 1, "devices must be at least 1 or none", self.devices)
        rule = f"strategy must be one of {', '.join(STRATEGIES)}"
        require(self.strategy in STRATEGIES, rule, self.strategy, nearest(self.strategy, STRATEGIES))
        require(self.choose in CHOICES, f"choose must be one of {', '.join(CHOICES)}", self.choose)
        require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}", self.dtype)

    def schedule(self, images):
        """Options of `learning_rate` beside peak, floor and length: none for half a cosine."""
        return {}

    @property
    def network(self):
        """(depths, dims)"""
        return (self.depths, self.dims) if self.depths else SIZES[self.size]

    @property
    def total_stride(self):
        return self.stem_patch_size * 2 ** (len(self.network[0]) - 1)

    @property
    def peak_lr(self):
        """Of the schedule; of an optimizer that finds the rate itself a factor on that, whatever the batch."""
        return self.base_lr if OPTIMIZERS[self.optimizer].finds_rate else self.base_lr * self.batch_size / 256

    @property
    def further_lr(self):
        """With which `fit` goes on, by AdamW: a tenth of the peak, or of the usual one where the rate was found."""
        found = OPTIMIZERS[self.optimizer].finds_rate
        return (Run.base_lr * self.batch_size / 256 if found else self.peak_lr) / 10

    def images_of(self, source):
        """How many of a source's pictures are used."""
        return source.count

    def epoch_steps(self, images):
        """Updates in one pass over this many images."""
        rule = f"batch_size must be at most the number of images, {images}"
        require(images >= self.batch_size, rule, self.batch_size, f"Try --set batch_size={images} or less.")
        return images // self.batch_size

    def total_steps(self, images):
        return self.steps or self.epochs * self.epoch_steps(images)

    def warmup_steps(self, images):
        return round(self.total_steps(images) * self.warmup_epochs / self.epochs)

    def derived(self):
        """{name: value} of what follows from the fields, for --explain."""
        return {"peak_lr": f"{self.peak_lr:.6g}", "total_stride": self.total_stride}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures(Run):
    """What programs have that see pictures of one size, cropped at random."""

    image_size: tuple[int, int] = (DEFAULT_SIDE, DEFAULT_SIDE)
    "height, width"
    crop: str = "random_resized"
    "random_resized, padded (4 pixels around and cut, for pictures up to 64) or none"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    "smallest and largest share of the picture in a random resized crop"
    flip: bool = True
    "mirror half of the pictures"

    def __post_init__(self):
        super().__post_init__()
        require(self.crop in CROPS, f"crop must be one of {', '.join(CROPS)}", self.crop, nearest(self.crop, CROPS))
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "crop_scale must be two shares with 0 < smallest <= largest <= 1", (low, high))
        small = [side for side in self.image_size if side < self.total_stride]
        require(not small, f"image_size must be at least the total stride {self.total_stride}", self.image_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(Pictures):
    """FCMAE pre-training."""

    patch_size: int | None = None
    "side of the patches that are hidden, a multiple of the total stride; none: the total stride"
    mask_ratio: float = 0.6
    "share of hidden patches; int(patches * (1 - mask_ratio)) stay"
    decoder_dim: int = 512
    "channels of the decoder"
    decoder_depth: int = 1
    "blocks of the decoder"
    norm_pix_loss: bool = True
    "the target is each patch normalised by its own mean and deviation"
    decay_grn: bool = False
    "weight decay also on GRN and the mask token, as the released script has it; the authors advise against it"

    batch_size: int = 4096
    epochs: int = 1600
    warmup_epochs: float = 40.0
    beta_2: float = 0.95
    crop_scale: tuple[float, float] = (0.2, 1.0)

    def __post_init__(self):
        super().__post_init__()
        ratio = self.mask_ratio
        require(0 < ratio < 1, "mask_ratio must be in (0, 1)", ratio, _percent_hint(ratio))
        for name in ("decoder_dim", "decoder_depth"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        multiple = self.mask_patch_size >= 1 and self.mask_patch_size % self.total_stride == 0
        require(multiple, f"patch_size must be a multiple of the total stride {self.total_stride}", self.patch_size)
        fits = all(side % self.mask_patch_size == 0 for side in self.image_size)
        near = tuple(max(1, round(side / self.mask_patch_size)) * self.mask_patch_size for side in self.image_size)
        rule = f"image_size must be divisible by the patch size {self.mask_patch_size}"
        require(fits, rule, self.image_size, f"Nearest: {near}.")
        patches, visible = self.patches
        rule = f"mask_ratio must leave at least one visible patch of {patches}"
        require(visible >= 1, rule, ratio, "Smaller patches (stem_patch_size) or a smaller ratio would do.")
        require(visible < patches, f"mask_ratio must hide at least one patch of {patches}", ratio)

    @property
    def mask_patch_size(self):
        return self.total_stride if self.patch_size is None else self.patch_size

    @property
    def patches(self):
        """(patches of an image, visible ones)"""
        height, width = (side // self.mask_patch_size for side in self.image_size)
        return height * width, visible_count(height * width, self.mask_ratio)

    def derived(self):
        return {**super().derived(), "patches": "{}, visible = {}".format(*self.patches)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Pictures):
    """Training of a classifier, from pre-trained weights or from scratch."""

    init: str | None = None
    "the workdir of a pre-training, or what load_weights takes: a file, a preset, hf:owner/name; none: from scratch"
    keep_head: bool = False
    "take the head over from `init` too, which must have as many classes"
    classes: int = 0
    "classes of the head, which must be those of the data; 0: ask the data"
    labels_per_class: int = 0
    "use only so many labelled images of each class; 0: all"
    validation_split: float = HELD_OUT
    "share that is held out of a folder without train and test, at least one picture of each class"

    label_smoothing: float = 0.1
    "share of the target that goes to all classes alike"
    drop_path_rate: float = 0.0
    "chance that the last block is left out; a ladder from 0 at the first"
    head_init_scale: float = 0.001
    "factor on the head's first weights; 1 from scratch"
    layer_decay: float = 1.0
    "the rate of a layer is that of the one after it times this"
    layer_decay_type: str = "single"
    "rungs of that ladder: single (one a block) or group (twelve, for Base and Large)"
    randaugment: str | None = None
    "RandAugment policy, such as rand-m9-mstd0.5-inc1: level, its deviation, harder with the level; none: off"
    color_jitter: float = 0.0
    "brightness, contrast and saturation change by factors of up to 1 +/- this; 0: off; without effect with randaugment"
    mixup: float = 0.0
    "alpha of mixup; 0: off; with cutmix too, each takes half of the batches"
    cutmix: float = 0.0
    "alpha of cutmix; 0: off"
    erasing: float = 0.0
    "chance that a box of a picture becomes noise; 0: off"

    evaluation_batch_size: int = 100
    "images at once in an evaluation"
    crop_fraction: float | None = CROP_FRACTION
    "share of the resized picture in the centre crop of the evaluation; none: squashed, as the reference from 384 on"

    def __post_init__(self):
        super().__post_init__()
        for name in ("classes", "labels_per_class", "color_jitter", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        held_out = self.validation_split
        require(0 < held_out < 1, "validation_split must be in (0, 1)", held_out, _percent_hint(held_out))
        for name in ("label_smoothing", "drop_path_rate"):
            share = getattr(self, name)
            require(0 <= share < 1, f"{name} must be in [0, 1)", share, _percent_hint(share))
        require(0 <= self.erasing <= 1, "erasing must be in [0, 1]", self.erasing, _percent_hint(self.erasing))
        if self.randaugment is not None:
            RandAugment.parse(self.randaugment)
        rule = "batch_size must be even for mixup and cutmix, which mix images in pairs"
        require(not self.mixes or self.batch_size % 2 == 0, rule, self.batch_size, f"Try {self.batch_size + 1}.")
        require(0 < self.layer_decay <= 1, "layer_decay must be in (0, 1]", self.layer_decay)
        fraction = self.crop_fraction
        require(fraction is None or 0 < fraction <= 1, "crop_fraction must be in (0, 1] or none", fraction)
        require(self.evaluation_batch_size >= 1, "evaluation_batch_size must be at least 1", self.evaluation_batch_size)
        rule = f"layer_decay_type must be one of {', '.join(LADDERS)}"
        require(self.layer_decay_type in LADDERS, rule, self.layer_decay_type, nearest(self.layer_decay_type, LADDERS))

    @property
    def mixes(self):
        return self.mixup > 0 or self.cutmix > 0

    def images_of(self, source):
        return self.labels_per_class * len(source.classes) or source.count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Run):
    """What programs have that look for many things in photos of any size."""

    init: str | None = None
    "backbone or all: the workdir of a run, or what load_weights takes: a file, a preset, hf:owner/name; none: scratch"
    keep_head: bool = False
    "take the classifiers over from `init` too, which must have as many classes"
    validation_split: float = HELD_OUT
    "share that is held out of a folder without a split for it"
    drop_path_rate: float = 0.0
    "chance that the last block is left out; a ladder from 0 at the first"
    layer_decay: float = 1.0
    "the rate of a rung of layers is that of the one after it times this"
    layer_decay_layers: int = 12
    "rungs of that ladder below the heads: 12, for Tiny 6"

    image_size: tuple[int, int] = (512, 512)
    "height, width of the crops, and of the windows of an evaluation"
    resize: tuple[int, ...] = (2048, 512)
    "longest and shortest side: photos are brought to the largest size with no longer ones; empty: they stay"
    scale: tuple[float, float] = (0.5, 2.0)
    "smallest and largest factor of that size in training"
    flip: bool = True
    "mirror half of the photos"
    distort: bool = True
    "change brightness, contrast, saturation and hue"

    def __post_init__(self):
        super().__post_init__()
        require(self.layer_decay_layers >= 1, "layer_decay_layers must be at least 1", self.layer_decay_layers)
        share = self.drop_path_rate
        require(0 <= share < 1, "drop_path_rate must be in [0, 1)", share, _percent_hint(share))
        held_out = self.validation_split
        require(0 < held_out < 1, "validation_split must be in (0, 1)", held_out, _percent_hint(held_out))
        require(0 < self.layer_decay <= 1, "layer_decay must be in (0, 1]", self.layer_decay)
        low, high = self.scale
        require(0 < low <= high, "scale must be two factors with 0 < smallest <= largest", (low, high))
        require_sides("resize", self.resize)
        small = [side for side in self.image_size if side < self.total_stride]
        require(not small, f"image_size must be at least the total stride {self.total_stride}", self.image_size)


def require_sides(name, sides):
    fits = len(sides) in (0, 2) and min(sides, default=1) >= 1 and sides == tuple(sorted(sides, reverse=True))
    require(fits, f"{name} must be the longer and the shorter side, or none", sides)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment(Scenes):
    """Training of a UPerNet on photos with label maps."""

    classes: int = 0
    "classes, 0 .. that - 1 in label maps; 0: ask the data"
    ignored: tuple[int, ...] = (255,)
    "values of label maps that do not count"

    head_channels: int = 512
    "of the head's convolutions"
    auxiliary_channels: int = 256
    "of the auxiliary head's convolution; 0: no such head"
    dropout: float = 0.1
    "chance that a channel is dropped before a classifier"
    synchronized: bool = False
    "batch statistics over all replicas of TensorFlow, which XLA then does not compile; JAX has them anyway"
    average: str = "all"
    "the loss is divided by the number of all pixels, or of the valid ones of each part and replica"
    poly_power: float = 1.0
    "the rate falls as (1 - progress) to this power"
    largest_share: float = 0.75
    "a crop of which one class takes as much is drawn anew; 1: none is"
    whole: bool = False
    "evaluate photos as a whole; false: by windows of image_size that overlap by a third"

    batch_size: int = 16
    epochs: int = 127
    steps: int = 160_000

    def __post_init__(self):
        super().__post_init__()
        rule = f"accumulation must leave two pictures a part, for batch norm, of batch_size {self.batch_size}"
        require(self.batch_size // self.accumulation >= 2, rule, self.accumulation)
        require(self.head_channels >= 1, "head_channels must be at least 1", self.head_channels)
        for name in ("classes", "auxiliary_channels"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)", self.dropout, _percent_hint(self.dropout))
        require(0 < self.largest_share <= 1, "largest_share must be in (0, 1]", self.largest_share)
        require(self.average in AVERAGES, f"average must be one of {', '.join(AVERAGES)}", self.average)
        require(self.poly_power > 0, "poly_power must be positive", self.poly_power)
        low, high = min(self.ignored, default=0), max(self.ignored, default=0)
        require(0 <= low <= high <= 255, "ignored must be values of 0..255", self.ignored)

    def schedule(self, images):
        return {"power": self.poly_power}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detect(Scenes):
    """Training of a Mask R-CNN, or of a Faster R-CNN, on photos with objects."""

    classes: tuple[str, ...] = ()
    "names of the classes in the order of their numbers; empty: those of the data"
    masks: bool = True
    "find masks too, for which the data must have them; false: Faster R-CNN"
    filter_empty: bool = True
    "leave out photos without an object to train on"
    min_size: int = 0
    "leave out photos with a shorter side"
    mean: tuple[float, ...] = ()
    "of the pictures, of 255, one a channel; empty: ImageNet's"
    std: tuple[float, ...] = ()
    "of the pictures, of 255, one a channel; empty: ImageNet's"

    fpn_dim: int = 256
    "channels of the feature pyramid"
    rpn_dim: int = 256
    "channels of the region proposal network"
    box_dim: int = 1024
    "channels of the box head"
    mask_dim: int = 256
    "channels of the mask head"
    mask_convs: int = 4
    "convolutions of the mask head"
    proposals: int = 1000
    "regions of a photo that are looked at"
    max_detections: int = 100
    "detections of a photo at most"
    soft_nms: bool = False
    "lower the score of a detection that a better one overlaps, in place of leaving it out"
    rpn_samples: int = 256
    "anchors of a photo that are trained on"
    roi_samples: int = 512
    "regions of a photo that are trained on"
    most_objects: int = 100
    "targets of a crop at most; of more objects a random choice"
    mask_size: int = 56
    "side of the masks that are trained on, each over the box of its object"

    keep_ratio: bool = True
    "photos keep their ratio; false: they are brought to image_size, in training times a factor of scale"
    evaluation_resize: tuple[int, ...] = (1333, 800)
    "longest and shortest side of photos in an evaluation; empty: they stay"
    tile: int = 0
    "side of the tiles that large scenes are cut into; 0: no tiles"
    gap: int = 200
    "by how many pixels neighbouring tiles overlap"
    merge: float = 0.5
    "overlap above which the worse of two detections from different tiles goes"
    metric: str = ""
    "what chooses the best weights: box_ap, mask_ap or ap07; empty: mask_ap, or box_ap without masks"
    plus_one: bool = False
    "ap07 with the sides of boxes one pixel longer, as the tables of SAR-AIRcraft-1.0 have it"
    fall_epochs: tuple[int, ...] = ()
    "epochs after which the rate falls to a tenth; empty: half a cosine to min_lr"

    image_size: tuple[int, int] = (1024, 1024)
    "height, width of the crops"
    resize: tuple[int, ...] = (1024, 1024)
    scale: tuple[float, float] = (0.1, 2.0)
    distort: bool = False
    batch_size: int = 32
    epochs: int = 36

    def __post_init__(self):
        super().__post_init__()
        for name in ("fpn_dim", "rpn_dim", "box_dim", "mask_dim", "proposals", "max_detections", "most_objects"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        for name in ("rpn_samples", "roi_samples", "mask_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        for name in ("mask_convs", "min_size", "tile"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        require(0 < self.merge <= 1, "merge must be in (0, 1]", self.merge)
        for name in ("mean", "std"):
            values = getattr(self, name)
            rule = f"{name} must have a number for each of the {self.channels} channels, or none"
            require(len(values) in (0, self.channels), rule, values)
        require(min(self.std, default=1.0) > 0, "std must be positive", self.std)
        require(not self.tile or 0 <= self.gap < self.tile, "gap must be within 0 .. tile - 1", self.gap)
        rule = "metric must be one of box_ap, mask_ap (with masks) and ap07, or none"
        require(self.metric in ("", "box_ap", "ap07", *(["mask_ap"] * self.masks)), rule, self.metric)
        require_sides("evaluation_resize", self.evaluation_resize)
        falls = self.fall_epochs
        rising = falls == tuple(sorted(set(falls))) and all(0 < epoch < self.epochs for epoch in falls)
        hint = "Try fall_epochs= for half a cosine."
        require(rising, f"fall_epochs must rise within 1 .. {self.epochs - 1}", falls, hint)

    @property
    def best(self):
        return self.metric or ("mask_ap" if self.masks else "box_ap")

    def schedule(self, images):
        total = self.total_steps(images)
        return {"falls": tuple(round(total * epoch / self.epochs) for epoch in self.fall_epochs)}
