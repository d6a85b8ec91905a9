"""What a run needs, by calculation: weights, multiplications, memory and time, as functions of its config."""

import dataclasses

from keras_convnextv2.detection.mask_rcnn import BOX_SIZE, MASK_SIZE, ROI_SHARE
from keras_convnextv2.detection.proposals import RATIOS
from training.configs import Detect, Pretrain, Segment
from training.logs import duration
from training.optimizers import OPTIMIZERS

# Peaks in TFLOPS as their makers state them for dense matrices, by dtype. float32 is what the matrix units make of it:
# TF32 on GPUs, passes of bfloat16 on TPUs, which have no float16; exact float32 is several times slower.
CHIPS = {
    "A100": {"float32": 156.0, "mixed_bfloat16": 312.0, "mixed_float16": 312.0},
    "H100": {"float32": 494.0, "mixed_bfloat16": 989.0, "mixed_float16": 989.0},
    "TPU v4": {"float32": 275.0, "mixed_bfloat16": 275.0},
}
# The share of the peak that a run reaches, an assumption. The paper's 800 epochs of Base in 7.7 hours on 256 TPU-v3
# cores (table 1), of 61.5 TFLOPS each, are 22% when whole pictures are counted.
UTILISATION = 0.2
MEMORIES = (16, 40, 80)  # GB of usual devices
BYTES = {"float32": 4, "mixed_bfloat16": 2, "mixed_float16": 2}
WIDTH = 4  # a block's inner layers are so many times as wide

# Tensors of a block that are alive at the peak of a step, of C and of 4C, fitted to what XLA reports (docs/recipes.md):
# those of its own dtype, and those of the statistics, which are float32 under every dtype.
NARROW, NARROW_EXACT = 3, 1  # its input and what depthwise and norm give; centred
WIDE, WIDE_EXACT = 2, 3  # what expand gives and what project takes; GELU and GRN between them


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks of one width: `rows` positions are computed, the depthwise convolution sees a map of `cells`."""

    count: int
    dim: int
    rows: int
    cells: int

    @property
    def weights(self):
        return self.count * (2 * WIDTH * self.dim**2 + (49 + 1 + 2 + WIDTH + 2 * WIDTH + 1) * self.dim)

    @property
    def multiplications(self):
        return self.count * (49 * self.dim * self.cells + 2 * WIDTH * self.dim**2 * self.rows)

    def bytes(self, dtype):
        """Of one block's tensors, for a picture."""
        each = BYTES[dtype]
        narrow = each * (self.cells + (NARROW - 1) * self.rows) + 4 * NARROW_EXACT * self.rows
        return self.dim * (narrow + WIDTH * self.rows * (each * WIDE + 4 * WIDE_EXACT))


def stages(config):
    """The Blocks of each stage; an FCMAE computes the rows of visible patches."""
    depths, dims = config.network
    found = []
    for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        stride = config.stem_patch_size * 2**stage
        cells = (config.image_size[0] // stride) * (config.image_size[1] // stride)
        rows = config.patches[1] * (config.mask_patch_size // stride) ** 2 if isinstance(config, Pretrain) else cells
        found.append(Blocks(depth, dim, rows, cells))
    return found


def decoder(config):
    """The Blocks of an FCMAE's decoder."""
    cells = stages(config)[-1].cells
    return Blocks(config.decoder_depth, config.decoder_dim, cells, cells)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Of a head: `side` x `side` from `before` to `after` channels at `cells` positions, or rows of a dense layer."""

    side: int
    before: int
    after: int
    cells: int
    weights_each: int = 2  # beside the kernel's, of a channel: batch norm; 1 of a classifier's bias

    @property
    def weights(self):
        return (self.side**2 * self.before + self.weights_each) * self.after

    @property
    def multiplications(self):
        return self.side**2 * self.before * self.after * self.cells


DENSE = (Segment, Detect)  # what has a pyramid of normed maps and heads of convolutions
POOL_SCALES = (1, 2, 3, 6)
CONVOLUTION_TENSORS = 4  # of what a convolution of a head gives: itself, normalised, after ReLU, for the next one


def head_convolutions(config, classes):
    """Those of both heads of a UPerNet."""
    *below, last = stages(config)
    wide, narrow, finest = config.head_channels, config.auxiliary_channels, stages(config)[0].cells
    found = [Convolution(1, last.dim, wide, scale**2) for scale in POOL_SCALES]
    found.append(Convolution(3, last.dim + len(POOL_SCALES) * wide, wide, last.cells))
    for stage in below:
        found += [Convolution(1, stage.dim, wide, stage.cells), Convolution(3, wide, wide, stage.cells)]
    found.append(Convolution(3, (len(below) + 1) * wide, wide, finest))
    found.append(Convolution(1, wide, classes, finest, weights_each=1))
    if narrow:
        found.append(Convolution(3, below[-1].dim, narrow, below[-1].cells))
        found.append(Convolution(1, narrow, classes, below[-1].cells, weights_each=1))
    return found


def detector_convolutions(config, classes, regions, masked):
    """Those of a detector's heads, for so many regions whose box is asked for, and whose mask is."""
    blocks, wide = stages(config), config.fpn_dim
    levels = sum(stage.cells for stage in blocks) + blocks[-1].cells // 4
    found = []
    for stage in blocks:
        found += [(1, stage.dim, wide, stage.cells), (3, wide, wide, stage.cells)]
    found += [(3, wide, config.rpn_dim, levels), (1, config.rpn_dim, 5 * len(RATIOS), levels)]
    found += [(BOX_SIZE, wide, config.box_dim, regions), (1, config.box_dim, config.box_dim, regions)]
    found += [(1, config.box_dim, 5 * classes + 1, regions)]
    if config.masks:
        before, cells = wide, MASK_SIZE**2 * masked
        for _ in range(config.mask_convs):
            found.append((3, before, config.mask_dim, cells))
            before = config.mask_dim
        found += [(2, before, config.mask_dim, cells), (1, config.mask_dim, classes, 4 * cells)]
    return [Convolution(*one, weights_each=1) for one in found]


def dense_convolutions(config, classes, training=False):
    """Those of the heads of a program that looks for many things in a photo."""
    if isinstance(config, Segment):
        return head_convolutions(config, classes)
    if training:
        return detector_convolutions(config, classes, config.roi_samples, int(config.roi_samples * ROI_SHARE))
    return detector_convolutions(config, classes, config.proposals, config.max_detections)


def weights(config, classes):
    """How many weights are trained: of the network with its head for so many classes, or of the FCMAE."""
    blocks, pixels = stages(config), config.stem_patch_size**2 * config.channels
    total = (pixels + 3) * blocks[0].dim + sum(stage.weights for stage in blocks)
    for before, after in zip(blocks, blocks[1:], strict=False):
        total += 2 * before.dim + (4 * before.dim + 1) * after.dim
    last = blocks[-1].dim
    if isinstance(config, DENSE):
        heads = sum(convolution.weights for convolution in dense_convolutions(config, classes))
        return total + sum(2 * stage.dim for stage in blocks) + heads
    if not isinstance(config, Pretrain):
        return total + 2 * last + (last + 1) * classes
    width, pixels = config.decoder_dim, config.total_stride**2 * config.channels
    return total + (last + 1 + 1) * width + decoder(config).weights + (width + 1) * pixels  # with the mask token


def multiplications(config, classes):
    """Multiply-accumulates of one picture's forward pass: convolutions and dense layers, as tables of the field count.

    An FCMAE's are those of the visible patches, of the depthwise convolutions on the whole map, and of the decoder,
    which predicts hidden patches alone.
    """
    blocks, pixels = stages(config), config.stem_patch_size**2 * config.channels
    total = pixels * blocks[0].dim * blocks[0].rows + sum(stage.multiplications for stage in blocks)
    for before, after in zip(blocks, blocks[1:], strict=False):
        total += 4 * before.dim * after.dim * after.rows
    last = blocks[-1]
    if isinstance(config, DENSE):
        return total + sum(convolution.multiplications for convolution in dense_convolutions(config, classes))
    if not isinstance(config, Pretrain):
        return total + last.dim * classes
    pixels = config.total_stride**2 * config.channels
    hidden = last.cells - last.rows
    return total + config.decoder_dim * (last.dim * last.rows + pixels * hidden) + decoder(config).multiplications


def state_bytes(config, classes):
    """{what: bytes} that a device holds whatever the batch: all in float32, also under a mixed dtype."""
    once = 4 * weights(config, classes)
    parts = {"weights": once, "gradients": once * (1 if config.accumulation == 1 else 2)}
    optimizer = OPTIMIZERS[config.optimizer]
    parts[optimizer.__name__] = len(optimizer.slots) * once
    return parts if config.ema is None else {**parts, "average": once}


def activation_bytes(config):
    """Bytes alive at the peak of a step for each picture that is worked off at once.

    With `remat` the inputs of the blocks alone stay; of the block that the backward pass is at, the tensors come once
    more, and beside them their gradients. The stem, downsampling and head are left out.
    """
    blocks = [*stages(config), *([decoder(config)] if isinstance(config, Pretrain) else [])]
    heads = 0
    if isinstance(config, DENSE):
        cells = sum(one.after * one.cells for one in dense_convolutions(config, classes=1, training=True))
        heads = CONVOLUTION_TENSORS * BYTES[config.dtype] * cells
    if not config.remat:
        return heads + sum(stage.count * stage.bytes(config.dtype) for stage in blocks)
    inputs = sum(stage.count * stage.dim * stage.rows for stage in blocks)
    return heads + inputs * BYTES[config.dtype] + 2 * max(stage.bytes(config.dtype) for stage in blocks)


def exaflops(config, images, classes):
    """Of the whole run. A multiply-accumulate is two; the backward pass costs two forward ones, `remat` one more."""
    pictures = config.total_steps(images) * config.batch_size
    passes = 4 if config.remat else 3
    return 2 * passes * multiplications(config, classes) * pictures / 1e18


def hours(config, images, classes, chip):
    """Of the whole run on one chip, at UTILISATION of its peak, if the pictures come fast enough; no evaluations."""
    return exaflops(config, images, classes) * 1e6 / (CHIPS[chip][config.dtype] * UTILISATION) / 3600


def described(config, images, classes):
    """Lines for --explain.

    Args:
        images, classes: of the data; None where unknown.
    """
    count = classes or 1000
    parts, each = state_bytes(config, count), activation_bytes(config)
    whole, at_once = sum(parts.values()), config.batch_size // config.accumulation
    heads = "" if classes or isinstance(config, Pretrain) else f"  # with {count:,} classes"
    fitting = {size: int((size * 1e9 - whole) // each) for size in MEMORIES}
    lines = [
        f"weights = {weights(config, count):,}{heads}",
        f"forward pass = {multiplications(config, count) / 1e9:.3g} G multiply-accumulates a picture",
        f"memory, whatever the batch = {_size(whole)}  # {', '.join(f'{k} {_size(v)}' for k, v in parts.items())}",
        f"memory, each picture at once = {_size(each)}  # {at_once} at once on a single device: "
        f"{_size(whole + at_once * each)}",
        "pictures at once that fit = " + ", ".join(f"{max(0, n):,} in {size} GB" for size, n in fitting.items()),
    ]
    if images is None:
        return lines
    lines.append(f"time = {exaflops(config, images, count):.3g} exaFLOP  # {images:,} pictures; hours:minutes:seconds")
    for chip in (chip for chip, peaks in CHIPS.items() if config.dtype in peaks):
        time, peak = hours(config, images, count, chip), CHIPS[chip][config.dtype]
        lines.append(f"  {duration(3600 * time)} on one {chip}  # of {peak:g} TFLOPS")
    return [*lines, f"  # assumed: {UTILISATION:.0%} of these peaks; this machine was not measured"]


def _size(count):
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
