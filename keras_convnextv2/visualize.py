"""Figures: what FCMAE reconstructs, what a classifier predicts, how a run went. They need matplotlib."""

import textwrap

import numpy as np
from keras import ops

from keras_convnextv2.layers.network import preprocessing_of

CELL = 1.5  # inches of a picture's side
DPI = 128
LABEL = 0.9  # inches a row's name needs
CHARACTER = 0.075  # inches a character of the caption takes on average
NARROWEST = 6.0  # inches: below, a caption becomes a tower of short lines
LARGE = 160  # pixels: smaller pictures are enlarged and must stay sharp, larger ones are averaged down
GREY = 128  # of a hidden patch
COLUMNS = 6
LONGEST_NAME = 18  # characters of a class name that fit above its picture
NUMBERED = 16  # classes: up to so many a confusion matrix has numbers in its cells
NAMED = 100  # up to so many it has names on its axes; beyond, the most frequent confusions are written beside it
SIDE = 1600  # pixels that a larger matrix takes about
FAINTEST = 0.2  # colour of one answer among many, where 1 is all: without a number in its cell it must be seen
LISTED = 30  # confusions beside a large matrix
SHEET_COLUMNS = 8
LEAK = (
    "With norm_pix_loss the network predicts only the pattern of a hidden patch: the mean and deviation of each hidden "
    "patch (its brightness and contrast, and so much of its colour) come from the original picture."
)


def reconstruction_grid(fcmae, images, path=None, visible=None, limit=8):
    """A figure of three rows: the originals, what the network saw (hidden patches grey), its reconstructions.

    Its caption says what is predicted and what is taken from the original.

    Args:
        fcmae: an `FCMAE`.
        images: a batch, of which the first `limit` are shown.
        path: where to write a PNG.
        visible: the patches that stay, (B, K); drawn by the model if None.
        limit: the most pictures shown.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: images that are not a batch, a visible of another length, a limit below 1.
    Shapes:
        images (B, H, W, C). One channel is grey, two are averaged, of more than three the first three are shown.
    Units:
        images as the model takes them: 0..255 if its backbone includes preprocessing; else the span of the
        originals is shown as black to white.
    """
    images = _batch(images, limit)
    visible = fcmae.draw_visible(images) if visible is None else visible
    visible = ops.convert_to_numpy(visible)[:limit].astype("int32")
    if len(visible) != len(images):
        raise ValueError(f"visible must have a row per image. Received: {len(visible)} rows, {len(images)} images")
    reconstructed = fcmae.reconstruct(images, visible)
    low, high = _span(fcmae, images)
    hidden = _hidden_pixels(fcmae, visible, images.shape)
    originals, pasted = (_displayed((x - low) / (high - low) * 255) for x in (images, reconstructed))
    rows = (("original", originals), ("masked", np.where(hidden, np.uint8(GREY), originals)), ("reconstructed", pasted))

    width = max(NARROWEST, CELL * len(images) + 0.4)
    total, count = fcmae.visible_patches(images.shape[1:3])
    caption = f"{total - count} of {total} patches are hidden and predicted from the others. "
    caption += LEAK if fcmae.norm_pix_loss else "Hidden patches are the network's prediction alone."
    lines = textwrap.wrap(caption, int(width / CHARACTER))
    height = max(CELL * images.shape[1] / images.shape[2], LABEL)
    figure = _figure(width, len(rows) * (height + 0.05) + 0.2 * len(lines), layout="compressed")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for (name, pictures), line in zip(rows, axes, strict=True):
        for picture, ax in zip(pictures, line, strict=True):
            _picture(ax, picture)
        line[0].set_ylabel(name, fontsize=9)
    figure.supxlabel("\n".join(lines), fontsize=9)
    return _saved(figure, path)


def prediction_grid(images, labels, probabilities, classes, path=None, limit=12):
    """A figure of pictures with their true and their predicted class.

    A wrong prediction is told by a cross for the check mark and a thick dashed frame, besides the colour.

    Args:
        images: a batch, of which the first `limit` are shown.
        labels: the true class of each, int.
        probabilities: of each class, as a model with a softmax answers.
        classes: their names, in the order of the model's outputs.
        path: where to write a PNG.
        limit: the most pictures shown.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: arrays that do not fit each other, labels without a name, probabilities outside [0, 1].
    Shapes:
        images (B, H, W, C), labels (B,), probabilities (B, len(classes)).
    Units:
        images 0..255.
    """
    count = len(images)
    images = _displayed(_batch(images, limit))
    labels, probabilities = ops.convert_to_numpy(labels), ops.convert_to_numpy(probabilities)
    _check_predictions(count, labels, probabilities, classes)
    columns = min(len(images), COLUMNS)
    rows = -(-len(images) // columns)
    height = (CELL + 0.25) * images.shape[1] / images.shape[2]
    width = max(3.5, columns * (CELL + 0.35))
    lines = textwrap.wrap(
        "above: the true class; below it: the predicted one and its probability", int(width / CHARACTER)
    )
    figure = _figure(width, rows * (height + 0.5) + 0.2 * len(lines), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    for ax, picture, label, row in zip(axes, images, labels, probabilities, strict=False):
        guess = int(np.argmax(row))
        right = guess == int(label)
        _picture(ax, picture)
        mark, colour = ("\u2713", "tab:blue") if right else ("\u2717", "tab:red")
        ax.set_title(
            f"{_short(classes[int(label)])}\n{mark} {_short(classes[guess])} {row[guess]:.0%}", fontsize=8, color=colour
        )
        for side in ax.spines.values():
            side.set(visible=True, color=colour, linewidth=1 if right else 3, linestyle="-" if right else (0, (3, 1.5)))
    figure.supxlabel("\n".join(lines), fontsize=9)
    return _saved(figure, path)


def confusion_matrix(counts, classes, answers=None, path=None):
    """A figure of which class was taken for which: a row a true class, a column an answer, its colour the row's share.

    Up to NUMBERED classes the counts stand in the cells, up to NAMED the names on the axes. With more a cell is some
    pixels, and the most frequent confusions are listed beside.

    Args:
        counts: pictures, int.
        classes: names of the rows.
        answers: names of the columns, those of the rows first and in their order; `classes` if None.
        path: where to write a PNG.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: counts that do not fit the names.
    Shapes:
        counts (len(classes), len(answers)).
    """
    counts, classes = np.asarray(counts), list(classes)
    answers = classes if answers is None else list(answers)
    if counts.shape != (len(classes), len(answers)) or not counts.size:
        expected = (len(classes), len(answers))
        raise ValueError(f"counts must have a row a class and a column an answer, {expected}. Received: {counts.shape}")
    images = counts.sum(axis=1, keepdims=True)
    share = np.where(images > 0, counts / np.maximum(images, 1), np.nan)  # a class without pictures stays grey
    large = max(counts.shape) > NAMED
    figure, ax = (_large_axes if large else _named_axes)(classes, answers)
    numbered = max(counts.shape) <= NUMBERED
    shade = share if numbered else np.where(share > 0, FAINTEST + (1 - FAINTEST) * share, share)
    ax.set_facecolor("lightgrey")
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto" if large else "equal")
    if numbered:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black" if count else "silver"
            ax.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    ax.set(xlabel="answer", ylabel="true class")
    if large:
        ax.set(xlabel="number of the answer", ylabel="number of the true class")
        for axis in (ax.xaxis, ax.yaxis):
            axis.get_major_locator().set_params(integer=True)
        worst = [f"{_short(a)} as {_short(b)}: {n} of {of}" for a, b, n, of in confusions(counts, classes, answers)]
        text = "\n".join(["most frequent confusions", *worst[:LISTED]])
        ax.annotate(text, (1, 1), (12, 0), "axes fraction", "offset points", va="top", fontsize=9)
    return _saved(figure, path)


def confusions(counts, classes, answers=None):
    """[(true class, answer, pictures, of so many)] of the wrong answers, the most frequent ones first."""
    counts, answers = np.asarray(counts), classes if answers is None else answers
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    cells = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [(classes[row], answers[column], int(counts[row, column]), int(counts[row].sum())) for row, column in cells]


def contact_sheet(pictures, captions, path=None):
    """A figure of pictures of any sizes with a text below each.

    Args:
        pictures: arrays (h, w, 1 or 3), 0..255.
        captions: a text for each; each of its lines is shortened to the width.
        path: where to write a PNG.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no picture, or another number of captions.
    """
    if not pictures or len(pictures) != len(captions):
        raise ValueError(
            f"a contact sheet needs pictures and a caption for each. Received: {len(pictures)} and {len(captions)}"
        )
    columns = min(len(pictures), SHEET_COLUMNS)
    rows = -(-len(pictures) // columns)
    step = 1.1 + 0.1 * max(caption.count("\n") + 1 for caption in captions)  # of a row, where a picture's side is 1
    figure = _figure(max(2.0, 1.1 * CELL * columns), CELL * step * rows)
    ax = figure.subplots()
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        (shown,) = _displayed(np.asarray(picture)[None])
        left, top = 1.1 * (number % columns), step * (number // columns)
        height, width = np.array(shown.shape[:2]) / max(shown.shape[:2]) / 2
        _picture(ax, shown, extent=(left + 0.5 - width, left + 0.5 + width, top + 0.5 + height, top + 0.5 - height))
        text = "\n".join(map(_short, caption.split("\n")))
        ax.text(left + 0.5, top + 1.02, text, fontsize=7, ha="center", va="top")
    ax.set(xlim=(-0.05, 1.1 * columns - 0.05), ylim=(step * rows, -0.05), aspect="equal")
    return _saved(figure, path)


def segmentation(pictures, predictions, classes, labels=None, path=None, ignore=255):
    """A figure with a row a picture: the photo, its true classes if they are given, the predicted ones, and a legend.

    Classes are colours over the photo; pixels that do not count are left black. The legend has the classes that occur.

    Args:
        pictures: arrays (H, W, 1 or 3) of any sizes, 0..255.
        predictions: a label map (H, W) of each.
        classes: their names, in the order of their numbers; or how many, or None: the numbers themselves.
        labels: the true label maps, or None.
        path: where to write a PNG.
        ignore: the label of pixels that do not count.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no picture, another number of maps, a map of another size than its picture.
    """
    named = {"photo": [None] * len(pictures), **({"truth": labels} if labels is not None else {})}
    named["prediction"] = predictions
    classes = _named_classes(classes, [map_ for maps in named.values() for map_ in maps if map_ is not None], ignore)
    _check_maps(pictures, named)
    colours = _class_colours(len(classes))
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    cell = 2 * CELL
    seen = sorted({int(k) for maps in named.values() for map_ in maps if map_ is not None for k in np.unique(map_)})
    seen = [k for k in seen if k != ignore]
    lines = -(-len(seen) // (2 * len(named)))
    figure = _figure(cell * len(named), len(pictures) * cell * ratio + 0.22 * lines + 0.3)
    axes = figure.subplots(len(pictures), len(named), squeeze=False)
    for row, line in enumerate(axes):
        (shown,) = _displayed(np.asarray(pictures[row])[None])
        for ax, (name, maps) in zip(line, named.items(), strict=True):
            _picture(ax, shown if maps[row] is None else _overlay(shown, np.asarray(maps[row]), colours, ignore))
            if row == 0:
                ax.set_title(name, fontsize=9)
    from matplotlib.patches import Patch

    patches = [Patch(color=colours[k] / 255, label=_short(classes[k])) for k in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=2 * len(named), fontsize=7, frameon=False)
    return _saved(figure, path)


def detections(pictures, found, classes, truths=None, path=None, threshold=0.3):
    """A figure with a row a picture: the photo, its true objects if they are given, and the detections, with a legend.

    Boxes and masks have the colour of their class; a number at a box is its score in percent.

    Args:
        pictures: arrays (H, W, 1 or 3) of any sizes, 0..255.
        found: of each what `kc.detection.predict` returns: "boxes" (n, 4), "scores" (n,), "classes" (n,), and "masks"
            (n, H, W) bool where there are.
        classes: their names, in the order of their numbers; or how many, or None: the numbers themselves.
        truths: of each the same without scores, or None.
        path: where to write a PNG.
        threshold: detections of lower scores are not drawn.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no picture, another number of detections than pictures.
    """
    named = {"photo": [None] * len(pictures), **({"truth": truths} if truths is not None else {})}
    named["detections"] = [_scoring(one, threshold) for one in found]
    if not len(pictures):
        raise ValueError("pictures must be one at least. Received: none.")
    for name, each in named.items():
        if len(each) != len(pictures):
            raise ValueError(f"{name} must be for each of {len(pictures)} pictures. Received: {len(each)}.")
    if classes is None:
        classes = 1 + max((int(k) for each in named.values() for one in each if one for k in one["classes"]), default=0)
    classes = tuple(map(str, range(classes))) if isinstance(classes, int) else classes
    colours = _class_colours(len(classes))
    seen = sorted({int(k) for each in named.values() for one in each if one is not None for k in one["classes"]})
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    cell, lines = 2 * CELL, -(-len(seen) // (2 * len(named)))
    figure = _figure(cell * len(named), len(pictures) * cell * ratio + 0.22 * lines + 0.3)
    axes = figure.subplots(len(pictures), len(named), squeeze=False)
    from matplotlib.patches import Patch, Rectangle

    for row, line in enumerate(axes):
        (shown,) = _displayed(np.asarray(pictures[row])[None])
        for ax, (name, each) in zip(line, named.items(), strict=True):
            one = each[row]
            _picture(ax, shown if one is None else _with_masks(shown, one, colours))
            if row == 0:
                ax.set_title(name, fontsize=9)
            for n, (x1, y1, x2, y2) in enumerate([] if one is None else one["boxes"]):
                colour = colours[int(one["classes"][n])] / 255
                ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=0.8))
                if "scores" in one:
                    ax.text(x1, y1, f"{100 * one['scores'][n]:.0f}", color=colour, fontsize=5, va="bottom")
    patches = [Patch(color=colours[k] / 255, label=_short(classes[k])) for k in seen]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=2 * len(named), fontsize=7, frameon=False)
    return _saved(figure, path)


def _scoring(found, threshold):
    keep = np.asarray(found["scores"]) >= threshold
    return {name: np.asarray(values)[keep] for name, values in found.items()}


def _with_masks(picture, objects, colours):
    if "masks" not in objects or objects["masks"] is None:
        return picture
    picture = np.broadcast_to(picture, (*picture.shape[:2], 3)).astype("float32")
    for mask, k in zip(objects["masks"], objects["classes"], strict=True):
        picture[mask] = 0.55 * picture[mask] + 0.45 * colours[int(k)]
    return picture.astype("uint8")


def curves(tables, path=None, x="step", y="loss", title=None):
    """A figure of curves, such as the losses or accuracies of several runs.

    Args:
        tables: {label: [(x, y), ...]}, a curve each; values that are not finite leave a gap.
        path: where to write a PNG.
        x, y: names of the axes.
        title: above the figure.
    Returns:
        A `matplotlib.figure.Figure`.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no table, or one that does not hold pairs.
    """
    if not tables:
        raise ValueError(f"tables must hold at least one curve {{label: [(x, y), ...]}}. Received: {tables!r}")
    figure = _figure(6.4, 4.0)
    ax = figure.subplots()
    styles = ("-", "--", "-.", ":")  # so that a print without colours can be read
    for i, (label, rows) in enumerate(tables.items()):
        points = np.asarray(rows, "float64")
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(
                f"the curve {label!r} must be pairs [(x, y), ...]. Received: an array of shape {points.shape}"
            )
        marker = "o" if len(points) <= 30 else None
        ax.plot(*points.T, label=label, linestyle=styles[i % len(styles)], marker=marker, markersize=3)
    ax.set(xlabel=x, ylabel=y, title=title)
    if all(float(point[0]).is_integer() for rows in tables.values() for point in rows):
        ax.xaxis.get_major_locator().set_params(integer=True)  # there is no epoch 1.5
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return _saved(figure, path)


def _named_classes(classes, maps, ignore):
    """A name for each class that occurs."""
    largest = max((int(k) for map_ in maps for k in np.unique(map_) if k != ignore), default=0)
    if classes is None or isinstance(classes, int):
        classes = tuple(map(str, range(classes or largest + 1)))
    if largest >= len(classes):
        raise ValueError(f"maps must hold 0..{len(classes) - 1}, a class each, or {ignore}. Received: {largest}.")
    return classes


def _check_maps(pictures, named):
    if not len(pictures):
        raise ValueError("pictures must be one at least. Received: none.")
    for name, maps in named.items():
        if len(maps) != len(pictures):
            raise ValueError(f"{name} must be a map for each of {len(pictures)} pictures. Received: {len(maps)}.")
        for picture, map_ in zip(pictures, maps, strict=True):
            if map_ is not None and np.shape(map_) != np.shape(picture)[:2]:
                raise ValueError(
                    f"{name} must have the size of its picture {np.shape(picture)[:2]}. Received: {np.shape(map_)}."
                )


def _class_colours(count):
    """(count, 3), 0..255: spread over hue, in turns of three light and dark, so that neighbours differ."""
    from matplotlib.colors import hsv_to_rgb

    turn = np.arange(count) * 0.618034 % 1  # the golden ratio: any first few are far from each other
    light = np.array([0.95, 0.6, 0.8])[np.arange(count) % 3]
    return 255 * hsv_to_rgb(np.stack([turn, np.full(count, 0.85), light], axis=-1))


def _overlay(picture, labels, colours, ignore):
    counts = labels != ignore
    over = colours[np.where(counts, labels, 0)]
    return np.where(counts[..., None], 0.45 * picture + 0.55 * over, 0).astype("uint8")


def _named_axes(classes, answers):
    """(figure, axes) with the names of rows and columns."""
    size = max(len(classes), len(answers))
    cell = 0.45 if size <= NUMBERED else max(0.13, 0.3 - 0.002 * size)
    font = 8 if size <= NUMBERED else 6
    names = [[_short(name) for name in each] for each in (classes, answers)]
    room = 0.09 * font / 8 * max(len(name) for each in names for name in each) + 0.5
    figure = _figure(max(3.0, cell * len(answers) + room), max(2.5, cell * len(classes) + room))
    ax = figure.subplots()
    ax.set_yticks(range(len(classes)), names[0], fontsize=font)
    ax.set_xticks(range(len(answers)), names[1], fontsize=font, rotation=90)
    return figure, ax


def _large_axes(classes, answers):
    """(figure, axes) whose cells are the same whole number of pixels each, with room on the right."""
    cell = max(2, SIDE // max(len(classes), len(answers)))
    width, height = (cell * len(names) / DPI for names in (answers, classes))
    left, right, bottom, top = 0.75, 4.0, 0.625, 0.25  # inches, whole pixels
    total = left + width + right, bottom + max(height, 6.0) + top
    figure = _figure(*total, layout=None)
    place = left / total[0], 1 - (top + height) / total[1], width / total[0], height / total[1]
    return figure, figure.add_axes(place)


def _figure(width, height, layout="constrained"):
    try:
        from matplotlib.figure import Figure  # never pyplot: no global state, no window, no chosen backend
    except ImportError as error:
        raise ImportError('figures need matplotlib. Install it: pip install "keras_convnextv2[plots]"') from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    if layout is not None:
        figure.get_layout_engine().set(h_pad=0.07, w_pad=0.06)
    return figure


def _saved(figure, path):
    if path is not None:
        figure.savefig(path, format="png")
    return figure


def _picture(ax, picture, extent=None):
    interpolation = "nearest" if min(picture.shape[:2]) < LARGE else "antialiased"
    ax.imshow(picture, vmin=0, vmax=255, cmap="gray", interpolation=interpolation, extent=extent)
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)


def _batch(images, limit):
    """float32 numpy of the first `limit` images"""
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit must be a positive int. Received: {limit!r}")
    if len(images.shape) != 4 or not len(images):
        raise ValueError(f"images must be a batch (B, H, W, C) of at least one. Received: shape {tuple(images.shape)}")
    return ops.convert_to_numpy(images[:limit]).astype("float32")


def _displayed(images):
    """(B, H, W, C) 0..255 -> uint8 (B, H, W, 1 or 3)"""
    if images.shape[-1] == 2:
        images = images.mean(axis=-1, keepdims=True)  # two channels have no colour to show
    return np.clip(np.rint(images[..., :3]), 0, 255).astype("uint8")


def _span(fcmae, images):
    """The values shown as black and as white."""
    if preprocessing_of(fcmae) is not None:
        return 0.0, 255.0
    low, high = float(images.min()), float(images.max())
    return low, max(high, low + 1e-6)


def _hidden_pixels(fcmae, visible, shape):
    """(B, K) -> bool (B, H, W, 1)"""
    height, width = fcmae.grid(np.empty(shape, "bool"))
    hidden = np.ones((len(visible), height * width), "bool")
    np.put_along_axis(hidden, visible, False, axis=1)
    patches = hidden.reshape(-1, height, width, 1)
    return patches.repeat(fcmae.patch_size, axis=1).repeat(fcmae.patch_size, axis=2)


def _check_predictions(count, labels, probabilities, classes):
    if labels.shape != (count,) or probabilities.shape != (count, len(classes)):
        raise ValueError(
            f"{count} images and {len(classes)} classes need labels ({count},) and probabilities "
            f"({count}, {len(classes)}). Received: {labels.shape} and {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels must be in [0, {len(classes)}), the number of classes. "
            f"Received: {int(labels.min())} to {int(labels.max())}"
        )
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= 0 and high <= 1 + 1e-3):  # so that a NaN is refused too; half precision may exceed 1 a little
        raise ValueError(
            f"probabilities must be in [0, 1]. Received: {low:.3g} to {high:.3g}. Logits need a softmax first."
        )


def _short(name):
    """A name that is drawn letter by letter: it may be no UTF-8, and a dollar begins no formula."""
    name = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(name))
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
    return name.replace("$", r"\$")
