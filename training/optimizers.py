"""The optimizers: AdamW, D-Adaptation Adam; the table that gives every weight its decay and rate, and the schedule."""

import math
import re

import keras
from keras import ops

from keras_convnextv2.layers.network import variables_of

LADDERS = ("single", "group")
FALL = 0.1
GROUPS = 12  # the group ladder has twelve groups whatever the depth, with three blocks of stage 2 in each


def learning_rate(step, *, peak, total_steps, warmup_steps=0, floor=0.0, power=None, falls=()):
    """The rate of one step: a line from 0 to `peak`, then half a cosine down to `floor`, or with `power` a polynomial.

    step < warmup:  peak * step / warmup
    else:           floor + (peak - floor) * ((1 + cos(pi * p)) / 2 or (1 - p)**power)
                    with p = (step - warmup) / (total - warmup)
    with falls:     peak, and a tenth of what it was from each of these steps on
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    if falls:
        return peak * FALL ** sum(step >= fall for fall in falls)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if power is not None:
        return floor + (peak - floor) * (1.0 - min(1.0, progress)) ** power
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def layer_multipliers(depths, layer_decay, ladder, groups=GROUPS, on_top=("norm", "head")):
    """[(place, multiplier)] of a backbone with a head; a place is a regular expression over the front of a path.

    single: one rung a block, and a downsampling layer stands on the rung of the block after it.
    group: `groups` + 1 rungs; stage 2 climbs one rung every third block, stage 3 stands on the last but one.
    What is `on_top` stands on the last one.
    """
    if ladder not in LADDERS:
        raise ValueError(f"layer_decay_type must be one of {LADDERS}. Received: {ladder!r}.")
    if ladder == "group" and len(depths) != 4:
        raise ValueError(f"layer_decay_type='group' needs four stages. Received: depths={depths!r}. Try 'single'.")
    before = [sum(depths[:stage]) for stage in range(len(depths))]
    top = sum(depths) + 1 if ladder == "single" else groups + 1

    def rung(stage, block):  # block None: the stem or the downsampling layer in front of the stage
        if ladder == "single":
            return before[stage] + 1 + (block or 0)
        if block is None:
            return (0, 2, 3, groups)[stage]
        return (1, 2, 3 + block // 3, groups)[stage]

    rungs = [("stem", rung(0, None))]
    for stage, depth in enumerate(depths):
        if stage:
            rungs.append((f"stage_{stage}/downsample", rung(stage, None)))
        rungs += [(f"stage_{stage}/block_{block}", rung(stage, block)) for block in range(depth)]
    rungs += [(place, top) for place in on_top]
    return [(place, layer_decay ** (top - number)) for place, number in rungs]


def stage_multipliers(stages, layer_decay, layers):
    """[(place, multiplier)] of a segmenter: one rate a stage, as mmsegmentation's `stage_wise` ladder has it.

    A rung lower for each stage from the last: stage s stands on s + 1 of `layers` + 1, stem and downsampling layers on
    0, norms behind stages and heads on top.

    Source:
        mmsegmentation, engine/optimizers/layer_decay_optimizer_constructor.py
    """
    top = layers + 1
    rungs = [("stem|stage_[0-9]+/downsample", 0)]
    rungs += [(f"stage_{stage}/block_[0-9]+", stage + 1) for stage in range(stages)]
    rungs += [("norm_[0-9]+|decode_head|auxiliary_head", top)]
    return [(f"({place})", layer_decay ** (top - number)) for place, number in rungs]


def segment_rules(stages, layer_decay=1.0, layers=12):
    """Rows for a segmenter."""
    return weight_rules(stage_multipliers(stages, layer_decay, layers))


DETECTOR_HEADS = ("norm_[0-9]+", "neck", "rpn_head", "box_head", "mask_head")


def detect_multipliers(depths, layer_decay, layers):
    """[(place, multiplier)] of a detector: mmdetection's `layer_wise` ladder, which is the grouped one.

    A network of another number of stages than four has the ladder of single blocks.

    Source:
        mmdetection, engine/optimizers/layer_decay_optimizer_constructor.py
    """
    ladder = "group" if len(depths) == 4 else "single"
    return layer_multipliers(depths, layer_decay, ladder, layers, DETECTOR_HEADS)


def detect_rules(depths, layer_decay=1.0, layers=12):
    """Rows for a detector."""
    return weight_rules(detect_multipliers(depths, layer_decay, layers))


def weight_rules(places, *, decay_grn=False):
    """The table: rows (pattern over a whole path, rate multiplier, decayed?) for every kind of weight in `places`.

    Kernels decay. Norms, biases and GRN do not: the authors advise it, although the released pre-training script decays
    GRN and the mask token since they are not 1-D there. `decay_grn=True` is that script's rule.
    """
    rows = []
    for place, multiplier in places:
        rows += [
            (f"{place}/(.+/)?kernel", multiplier, True),
            (f"{place}/(.+/)?grn/(gamma|beta)", multiplier, decay_grn),
            (f"{place}/(.+/)?bias", multiplier, False),
            (f"{place}/(.+/)?norm/(gamma|beta)", multiplier, False),
            (f"{place}/(gamma|beta)", multiplier, False),
        ]
    return tuple(rows)


def finetune_rules(depths, layer_decay=1.0, ladder="single"):
    """Rows for a classifier; its last norm and its head learn at the full rate."""
    return weight_rules(layer_multipliers(depths, layer_decay, ladder))


def pretrain_rules(decay_grn=False):
    """Rows for an FCMAE: one rate for all, encoder and decoder alike."""
    places = [("(stem|stage_[0-9]+|decoder)", 1.0)]
    return (*weight_rules(places, decay_grn=decay_grn), ("decoder/mask_token", 1.0, decay_grn))


def matched(rules, paths):
    """[(multiplier, decayed?)], one for each path; raises unless exactly one row matches each."""
    compiled = [(re.compile(pattern), multiplier, decay) for pattern, multiplier, decay in rules]
    hits = {path: [row for row in compiled if row[0].fullmatch(path)] for path in paths}
    for problem, count in (("no row for", lambda n: n == 0), ("several rows for", lambda n: n > 1)):
        bad = sorted(path for path, rows in hits.items() if count(len(rows)))
        if bad:
            raise ValueError(
                f"The table of weight rules must have exactly one row for every weight. Received: {problem} {bad[:5]} "
                f"({len(bad)} of {len(paths)} weights). Add a row to the table, or make its pattern narrower."
            )
    return [hits[path][0][1:] for path in paths]


def addressed(rules, model):
    """A table in public paths as one in the paths that Keras gave this model's variables, a row for each."""
    public = {id(v): path for path, v in variables_of(model).items()}
    paths = {v.path: public.get(id(v), v.path) for v in model.trainable_variables}
    rows = zip(paths, matched(rules, list(paths.values())), strict=True)
    return tuple((re.escape(path), *row) for path, row in rows)


class RuledOptimizer(keras.optimizers.Optimizer):
    """What a training step asks of an optimizer: its state by name, and a pure function from old values to new ones.

    `slots` names what it keeps of each weight, `scalars` what it keeps of all together, with the first value: each is
    a list of variables under an attribute of that name, a group of the step and of its checkpoint.

    `updated(weights, *groups, gradients, iterations, rate)` returns the new weights and groups as lists; it touches no
    variable, so that a step can compile it.

    A subclass of the general Optimizer keeps Keras from putting its fused variant in its place on the torch backend.

    Args:
        rules: rows (pattern over a weight's whole path, rate multiplier, decayed?); None: rate 1 and decay for all.
    """

    slots = ()
    scalars = {}
    finds_rate = False  # the rate of a step is then a factor on what the optimizer finds, whatever the batch

    def __init__(self, learning_rate, weight_decay, beta_1, beta_2, epsilon, rules, name):
        super().__init__(learning_rate=learning_rate, name=name)
        self.decay, self.epsilon = weight_decay, epsilon  # the base class' own decay knows names only: it stays unset
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.rules = None if rules is None else tuple(tuple(row) for row in rules)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        rows = [(1.0, True)] * len(variables)
        if self.rules is not None:
            rows = matched(self.rules, [v.path for v in variables])
        self.multipliers = [multiplier for multiplier, _ in rows]
        self.decays = [self.decay if decayed else 0.0 for _, decayed in rows]
        for slot in self.slots:
            setattr(self, slot, [self.add_variable_from_reference(v, name=slot) for v in variables])
        for name, first in self.scalars.items():
            setattr(self, name, [self.add_variable((), keras.initializers.Constant(first), "float32", name=name)])

    @property
    def groups(self):
        """{name: variables} of the whole state but for the number of steps."""
        return {name: getattr(self, name) for name in (*self.slots, *self.scalars)}

    def get_config(self):
        kept = {key: value for key, value in super().get_config().items() if key in ("name", "learning_rate")}
        own = {"weight_decay": self.decay, "beta_1": self.beta_1, "beta_2": self.beta_2}
        return {**kept, **own, "epsilon": self.epsilon, "rules": self.rules}


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class AdamW(RuledOptimizer):
    """AdamW as torch computes it, with a rate multiplier and a decay switch for each weight.

        m += (1 - beta_1) * (g - m);  v += (1 - beta_2) * (g * g - v)
        w *= 1 - lr * decay;  w -= lr / (1 - beta_1**t) * m / (sqrt(v) / sqrt(1 - beta_2**t) + epsilon)

    Keras' own adds epsilon to the uncorrected root, which is another optimizer where gradients are small.

    Args:
        rules: as those of RuledOptimizer.
    """

    slots = ("first", "second")

    def __init__(
        self, learning_rate=1e-3, weight_decay=0.05, beta_1=0.9, beta_2=0.999, epsilon=1e-8, rules=None, name="adamw"
    ):
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, rules, name)

    def corrections(self, iterations):
        """1 - beta**t for both betas; expm1, because 1 - 0.999 in float32 has four right digits."""
        t = ops.cast(iterations + 1, "float32")
        return tuple(-ops.expm1(t * math.log(beta)) for beta in (self.beta_1, self.beta_2))

    def updated(self, values, first, second, gradients, iterations, rate):
        corrections = self.corrections(iterations)
        groups = zip(values, first, second, gradients, strict=True)
        rows = [self._row(i, *group, corrections, rate) for i, group in enumerate(groups)]
        return tuple(list(column) for column in zip(*rows, strict=True))

    def _row(self, i, w, m, v, g, corrections, rate):
        g, own_rate = ops.cast(g, w.dtype), rate * self.multipliers[i]
        m = m + (g - m) * (1.0 - self.beta_1)
        v = v * self.beta_2 + g * g * (1.0 - self.beta_2)
        if self.decays[i]:
            w = w * (1.0 - own_rate * self.decays[i])
        w = w - (own_rate / corrections[0]) * m / (ops.sqrt(v) / ops.sqrt(corrections[1]) + self.epsilon)
        return w, m, v

    def update_step(self, gradient, variable, learning_rate):
        """One weight, for `model.fit`; the steps of the training loop call `updated`."""
        i = self._get_variable_index(variable)
        group = (variable, self.first[i], self.second[i])
        values = [ops.convert_to_tensor(v) for v in group]
        rate, corrections = ops.cast(learning_rate, "float32"), self.corrections(self.iterations)
        for old, new in zip(group, self._row(i, *values, gradient, corrections, rate), strict=True):
            self.assign(old, new)


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class DAdaptAdam(RuledOptimizer):
    """Adam that finds its own rate: d, a lower bound on the distance from the first weights to the solution.

        a = d * lr;  b = sqrt(beta_2);  r is the multiplier of a weight, sums go over all of them
        numerator += (1 - b) * (sum of r * a * g * s / (sqrt(v) + epsilon) - numerator)
        m += (1 - beta_1) * (r * a * g - m);  v += (1 - beta_2) * (g * g - v);  s += (1 - b) * (a * g - s)
        d = max(d, numerator / ((1 - b) * sum of r * abs(s)))
        w *= 1 - a * decay;  w -= m / (sqrt(v) + epsilon)

    The decay does not see r. A step with lr 0 changes nothing, nor does one before the first gradient that is not 0.
    Moments are not corrected: d starts so small that the first steps hardly move a weight.

    Args:
        learning_rate: a factor on d, 1 unless training is unstable.
        rules: as those of RuledOptimizer.
        d0: the first d; far too small is right.
    Source:
        Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation (arXiv 2301.07733), algorithm 5, as version
        3.2 of the package `dadaptation` has it: DAdaptAdam with decouple=True and its other defaults.
    """

    slots = ("first", "second", "s")
    finds_rate = True

    def __init__(
        self,
        learning_rate=1.0,
        weight_decay=0.05,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        rules=None,
        d0=1e-6,
        name="dadapt_adam",
    ):
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, rules, name)
        self.scalars = {"d": d0, "numerator": 0.0}

    def updated(self, values, first, second, s, d, numerator, gradients, iterations, rate):
        (d,), (numerator,) = d, numerator
        gradients = [ops.cast(g, w.dtype) for g, w in zip(gradients, values, strict=True)]
        factor = ops.convert_to_tensor(rate, "float32")
        moves, rate, root = ops.cast(factor > 0.0, "float32"), d * factor, math.sqrt(self.beta_2)
        fresh_1, fresh_2, fresh_root = (moves * (1.0 - memory) for memory in (self.beta_1, self.beta_2, root))
        gain = self._over_all(
            ops.sum(g * (t / (ops.sqrt(v) + self.epsilon))) for g, t, v in zip(gradients, s, second, strict=True)
        )
        numerator = numerator + (rate * gain - numerator) * fresh_root
        rates = [rate * multiplier for multiplier in self.multipliers]
        first = [m + (r * g - m) * fresh_1 for m, g, r in zip(first, gradients, rates, strict=True)]
        second = [v + (g * g - v) * fresh_2 for v, g in zip(second, gradients, strict=True)]
        s = [t + (rate * g - t) * fresh_root for t, g in zip(s, gradients, strict=True)]
        length = self._over_all(ops.sum(ops.abs(t)) for t in s)
        moves = ops.where(length > 0.0, moves, 0.0)
        grown = ops.maximum(d, numerator / ((1.0 - root) * ops.where(length > 0.0, length, 1.0)))
        weights = [
            w * (1.0 - moves * rate * decay) - moves * m / (ops.sqrt(v) + self.epsilon)
            for w, m, v, decay in zip(values, first, second, self.decays, strict=True)
        ]
        return weights, first, second, s, [grown], [numerator]

    def _over_all(self, sums):
        return sum(total * multiplier for total, multiplier in zip(sums, self.multipliers, strict=True))

    def update_step(self, gradient, variable, learning_rate):
        raise TypeError(
            f"DAdaptAdam must see the gradients of all weights at once. Received: that of {variable.name!r} alone, as "
            "`fit` gives it. Use the step of `training.steps.make_step`, or AdamW."
        )

    def get_config(self):
        return {**super().get_config(), "d0": self.scalars["d"]}


OPTIMIZERS = {"adamw": AdamW, "dadapt_adam": DAdaptAdam}
