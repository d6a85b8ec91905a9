"""Which array goes into which variable: recognise a file's format and pair its names with ours, strictly both ways."""

import collections
import contextlib
import dataclasses
import re

import numpy as np

from keras_convnextv2.sizes import SIZES
from keras_convnextv2.weights.readers import Arrays, of_names, open_arrays, without_prefix
from keras_convnextv2.weights.rows import (
    CLASSIFIERS,
    CONVERSIONS,
    COUNTER,
    DENSE_HEADS,
    ENCODER,
    OTHER_HEADS,
    OWN,
    READABLE,
    Format,
    part_name,
    part_of,
)

# What training code puts before every name: data parallel, torch.compile, a model inside of another module.
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
STEM = ("stem/conv/kernel", "stem/conv/bias")
WIDE = ("norm/gamma", "norm/beta", "depthwise/bias", "project/bias", "project/kernel")  # of a block, C at the end
BOUND = (ENCODER, "norm", "head")  # parts that a model keeps for a reason only: `_excused` gives it
SKIP_HEAD = "load_weights(model, path, skip_head=True) leaves the model's head at its initialisation"


@dataclasses.dataclass(frozen=True)
class Size:
    """Depths, dims, stem and head as names and shapes tell them; None where they do not."""

    depths: tuple
    dims: tuple
    stem: tuple | None  # (patch, patch, channels in, dim)
    classes: int | None
    decoder_depth: int
    decoder_dim: int | None = None
    pools: int = 0  # of a UPerNet
    convs: int = 0  # of a mask head

    @property
    def name(self):
        """Of the published sizes, or None for a size of the user's own."""
        return next((name for name, size in SIZES.items() if size == (self.depths, self.dims)), None)

    def __str__(self):
        return f"depths {self.depths} and dims {self.dims} ({self.name or 'no published size'})"


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The Pairs of everything to set; what is left out or left alone, with the reason.

    `channels` are those of the two stems, the file's and the model's.
    """

    pairs: tuple
    left_out: dict
    untouched: dict
    channels: tuple


def known_names(table, names):
    """[(name, row, {"s": stage, "b": block})] of the names that a row of the table describes."""
    rows = [(row, re.compile(row.pattern())) for row in table.rows]
    found = []
    for name in names:
        for row, pattern in rows:
            if match := pattern.fullmatch(name):
                index = {key: int(value) for key, value in match.groupdict().items()}
                if "n" in index:
                    index["s"] = index.pop("n") - 1
                found.append((name, row, index))
                break
    return found


def recognise(shapes, where):
    """The format whose rows describe most arrays by name and rank; a single odd name does not hide it."""
    return _checked(_format_of(shapes), shapes, where)


def _format_of(shapes):
    """The format that describes most arrays, and half of them at least; or None."""

    def score(table):
        known = known_names(table, shapes)
        return sum(len(shapes[name]) in CONVERSIONS[row.conversion].ranks for name, row, _ in known)

    scores = {table.name: score(table) for table in READABLE}
    best = max(READABLE, key=lambda table: scores[table.name])
    return best if shapes and 2 * scores[best.name] >= len(shapes) else None


def _checked(table, shapes, where):
    if table is None:
        raise ValueError(
            f"{where} is in no format that can be read ({', '.join(table.name for table in READABLE)}). "
            f"Received {len(shapes)} arrays: {some(shapes)}"
        )
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise ValueError(f"{where} must hold whole arrays. Received: {empty[0]!r} of shape {tuple(shapes[empty[0]])}")
    return table


@dataclasses.dataclass(frozen=True)
class Recognised:
    """The arrays of a network in a file, and the format of their names.

    `prefix` stood before all of them and is no format's, "" for none; `beside` is {name: why it is not used} of what
    belongs to no network; `where` is what errors call the file.
    """

    where: str
    arrays: Arrays
    table: Format
    prefix: str
    beside: dict


@contextlib.contextmanager
def open_recognised(path, ema=False, where=None):
    """What a file holds, as Recognised; it stays open inside the `with`."""
    where = where or repr(str(path))
    with open_arrays(path, ema) as arrays:
        prefix, beside = "", {}
        while True:
            others = _other_heads(_format_of(arrays.shapes), arrays.shapes)
            arrays, apart = _apart(arrays, others.__contains__, "a detector's or segmenter's, beside the network")
            beside |= {prefix + name: why for name, why in apart.items()}
            # The names as they are first: some formats have such a prefix of their own.
            table = _format_of(arrays.shapes)
            if table or not (wrapper := _wrapper(arrays.shapes)):
                break
            arrays, prefix = without_prefix(arrays, wrapper), prefix + wrapper
        arrays, apart = _apart(arrays, lambda name: name.endswith(COUNTER), "a counter of torch's, not used")
        beside |= {prefix + name: why for name, why in apart.items()}
        yield Recognised(where, arrays, _checked(table, arrays.shapes, where), prefix, beside)


def _apart(arrays, belongs, reason):
    """(the Arrays that do not belong there, {name: reason} of those that do); all of them stay if all do."""
    found = dict.fromkeys(filter(belongs, arrays.shapes), reason)
    rest = [name for name in arrays.shapes if name not in found]
    return (of_names(arrays, rest), found) if rest else (arrays, {})


def _other_heads(table, names):
    """The names of what a file has beside its network that the format has no rows for.

    It has rows for the heads of a file where it knows their classifier and most of their names. Then what is lacking
    of them is an error, and only further heads, such as a panoptic one, are left out.
    """
    heads = {name for name in names if name.startswith(OTHER_HEADS)}
    known = known_names(table, heads) if table else []
    classifies = any(f"{head}/classifier" == row.pair(**index).part for _, row, index in known for head in DENSE_HEADS)
    if not classifies or 2 * len(known) < len(heads):
        return heads
    return {name for name in heads - {name for name, *_ in known} if not name.endswith(COUNTER)}


def _wrapper(names):
    return next((w for w in WRAPPERS if names and all(name.startswith(w) for name in names)), None)


def measure(table, shapes):
    """The Size of a file or, with our own table, of a model."""
    per_block = sum(row.each == "block" for row in table.rows)
    per_decoder_block = max(1, sum(row.each == "decoder" for row in table.rows))
    counts, dims = collections.Counter(), collections.defaultdict(collections.Counter)
    per_pool, per_conv = (max(1, sum(row.each == each for row in table.rows)) for each in ("pool", "conv"))
    stem = classes = decoder_dim = None
    for name, row, index in known_names(table, shapes):
        counts[row.each, index.get("s")] += 1
        if row.each == "block" and row.ours.endswith(WIDE):
            shape = shape_after(row.conversion, shapes[name]) or ()
            dims[index["s"]].update(shape[-1:])
        elif row.ours == STEM[0]:
            shape = shape_after(row.conversion, shapes[name]) or ()
            stem = shape if len(shape) == 4 else None
        elif row.ours in ("head/bias", "decode_head/classifier/bias"):
            classes = max(shapes[name], default=None)
        elif row.ours == "box_head/classifier/bias":
            classes = max(shapes[name], default=1) - 1  # the background is no class
        elif row.ours == "decoder/mask_token":
            decoder_dim = max(shapes[name], default=None)
    # rounded, so that one array too many or too few is reported as itself and not as another depth
    stages = range(1 + max(dims, default=-1))
    return Size(
        depths=tuple(round(counts["block", s] / per_block) for s in stages),
        dims=tuple(dims[s].most_common(1)[0][0] if dims[s] else None for s in stages),
        stem=stem,
        classes=classes,
        decoder_depth=round(counts["decoder", None] / per_decoder_block),
        decoder_dim=decoder_dim,
        pools=round(counts["pool", None] / per_pool),
        convs=round(counts["conv", None] / per_conv),
    )


def expand(table, size):
    """The Pairs of a whole network of that size."""
    stages = range(len(size.depths))
    runs = {
        "once": [{}],
        "stage": [{"s": s} for s in stages],
        "down": [{"s": s} for s in stages[1:]],
        "block": [{"s": s, "b": b} for s in stages for b in range(size.depths[s])],
        "decoder": [{"b": b} for b in range(size.decoder_depth)],
        "pool": [{"p": p} for p in range(size.pools)],
        "conv": [{"c": c} for c in range(size.convs)],
        "level": [{"l": level} for level in stages[:-1]],
    }
    return [row.pair(**index) for row in table.rows for index in runs[row.each]]


def pair_up(table, theirs, ours, *, where, skip_head=False):
    """The Pairing of two {name: shape}, the file's and the model's.

    Every array is used and every variable set exactly once, apart from whole parts (norms, head, decoder) that one
    side does not have; and a decoder, which predicts pixels, is left alone where the stems differ in their channels.
    Raises one line otherwise.
    """
    have, want = measure(table, theirs), measure(OWN, ours)
    _check_size(have, want, where)
    in_file, in_model = parts_in(table, theirs), parts_in(OWN, ours)
    both_classify = not skip_head and in_file & in_model & set(CLASSIFIERS)
    if both_classify and have.classes and want.classes and have.classes != want.classes:
        raise ValueError(f"{where} has a head of {have.classes} classes, the model one of {want.classes}: {SKIP_HEAD}")
    channels = tuple(size.stem and size.stem[2] for size in (have, want))
    surplus, lacking = _excused(in_file, in_model, want, where, skip_head, channels)
    if "decoder" not in surplus:
        _check_decoder(have, want, where)
    depth = have.decoder_depth if "decoder" in surplus else want.decoder_depth
    pools = have.pools if "decode_head" in surplus else want.pools
    convs = have.convs if "mask_head" in surplus else want.convs
    wanted = expand(table, dataclasses.replace(want, decoder_depth=depth, pools=pools, convs=convs))
    expected = [pair for pair in wanted if pair.part in in_file | in_model - set(lacking)]
    pairs = [pair for pair in expected if pair.part not in surplus]
    untouched = {path: lacking[part] for path in ours if (part := part_of(path)) in lacking}
    _check_names(where, theirs, [pair.theirs for pair in expected])
    _check_names("the model", [path for path in ours if path not in untouched], [pair.ours for pair in pairs])
    pairing = Pairing(
        pairs=tuple(pairs),
        left_out={pair.theirs: surplus[pair.part] for pair in expected if pair.part in surplus},
        untouched=untouched,
        channels=channels,
    )
    _check_shapes(pairing, theirs, ours, where)
    return pairing


def _check_size(have, want, where):
    """Raises when depths, dims, or the stem differ."""
    if (have.depths, have.dims) != (want.depths, want.dims):
        raise ValueError(f"{where} holds {have}, the model has {want}: build the model with the file's depths and dims")
    patch, wanted = (size.stem and size.stem[0] for size in (have, want))
    if patch and wanted and patch != wanted:
        raise ValueError(
            f"{where} has a stem with a patch kernel of {patch} x {patch}, which cannot be turned into one of "
            f"{wanted} x {wanted}: build the model with stem_patch_size={patch}"
        )


def _check_decoder(have, want, where):
    for name in ("decoder_depth", "decoder_dim"):
        theirs, ours = getattr(have, name), getattr(want, name)
        if theirs and ours and theirs != ours:
            raise ValueError(
                f"{where} has a decoder of {name} {theirs}, the model one of {ours}: build it with {name}={theirs}"
            )


def parts_in(table, names):
    """The parts of a network that the names describe."""
    return {row.pair(**index).part for _, row, index in known_names(table, names)}


def _excused(file, model, want, where, skip_head, channels):
    """({part of the file to leave out: reason}, {part of the model to leave alone: reason})."""
    surplus = {part: f"the model has no {part_name(part)}" for part in file - model - {ENCODER}}
    lacking = {}
    if skip_head:
        lacking |= {part: "skip_head=True" for part in CLASSIFIERS if part in model}
        surplus |= {part: "skip_head=True" for part in CLASSIFIERS if part in model & file}
    if not file & {"norm", "head"}:  # what FCMAE leaves behind is an encoder without either
        reason = (
            "the file is from pre-training and has none" if "decoder" in file else "the file has neither norm nor head"
        )
        lacking |= dict.fromkeys(model & {"norm", "head"}, reason)
    lacking |= {part: f"new: the file has no {part_name(part)}" for part in model - file if part not in BOUND}
    if "decoder" in model & file and None not in channels and channels[0] != channels[1]:
        reason = f"a decoder predicts pixels, of {channels[0]} channels in the file and {channels[1]} in the model"
        lacking["decoder"] = surplus["decoder"] = reason
    if "head" in model - file - set(lacking):
        raise ValueError(f"{where} has no classifier head, the model has one of {want.classes} classes: {SKIP_HEAD}")
    return surplus, lacking


def _check_names(where, have, want):
    twice = [name for name, count in collections.Counter(want).items() if count > 1]
    extra, lost = set(have) - set(want), set(want) - set(have)
    if twice or extra or lost:
        kinds = (("twice", twice), ("not expected", extra), ("missing", lost))
        found = "; ".join(f"{kind} {some(names)}" for kind, names in kinds if names)
        raise ValueError(f"{where} does not fit: {found}")


def shape_after(conversion, shape):
    """The shape that a conversion makes of an array, or None when it cannot take that array."""
    try:
        return CONVERSIONS[conversion].forward(np.empty(shape, "int8")).shape
    except (ValueError, IndexError):  # IndexError: too few axes
        return None


def _check_shapes(pairing, theirs, ours, where):
    for pair in pairing.pairs:
        given, wanted = tuple(theirs[pair.theirs]), tuple(ours[pair.ours])
        fits = len(given) in CONVERSIONS[pair.conversion].ranks
        shape = shape_after(pair.conversion, given)
        if shape and pair.ours == STEM[0]:
            shape = (*shape[:2], pairing.channels[1], *shape[3:])  # the loader brings it to the model's channels
        if not fits or shape != wanted:
            raise ValueError(
                f"{where} does not fit: {pair.theirs!r} has shape {given}, which does not give {pair.ours} {wanted}"
            )


def some(names, most=3):
    """The first few names, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
