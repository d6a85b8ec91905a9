"""Figures: what they show, in which size, and what they refuse."""

import importlib.util
import struct
import sys

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2 import visualize

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: figures need it"
)
SIZE = (32, 48)
CLASSES = ("disc", "ring", "star")


def small_fcmae(channels=3, include_preprocessing=True, **kwargs):
    backbone = kc.ConvNeXtV2(
        (1,),
        (4,),
        include_top=False,
        include_preprocessing=include_preprocessing,
        input_shape=(*SIZE, channels),
    )
    return kc.FCMAE(backbone, patch_size=16, decoder_dim=8, seed=0, **kwargs)


@pytest.fixture(scope="module")
def fcmae():
    return small_fcmae()


def pictures(count=3, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, *SIZE, channels)).astype("float32")


def png_size(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return struct.unpack(">II", head[16:])


def picture_at(figure, row, column, columns):
    """The pixels given to matplotlib in a cell of the figure."""
    return np.asarray(figure.axes[row * columns + column].images[0].get_array())


@needs_matplotlib
def test_reconstructions_show_originals_hidden_patches_in_grey_and_pasted_pictures(fcmae, tmp_path):
    images, visible = pictures(), np.array([[0, 4], [1, 3], [2, 5]])
    figure = visualize.reconstruction_grid(fcmae, images, tmp_path / "r.png", visible)
    width, height = png_size(tmp_path / "r.png")
    assert 600 < width < 1200 and 300 < height < 800
    assert len(figure.axes) == 9
    pasted = fcmae.reconstruct(images, visible)
    for column, patches in enumerate(visible):
        hidden = np.ones((2, 3), bool)
        hidden.ravel()[patches] = False
        hidden = hidden.repeat(16, axis=0).repeat(16, axis=1)
        original, masked, reconstructed = (picture_at(figure, row, column, 3) for row in range(3))
        assert np.array_equal(original, np.rint(images[column]))
        assert np.all(masked[hidden] == visualize.GREY)
        assert np.array_equal(masked[~hidden], original[~hidden])
        assert np.array_equal(reconstructed, np.rint(pasted[column]))


@needs_matplotlib
def test_the_caption_says_what_comes_from_the_original(fcmae):
    caption = visualize.reconstruction_grid(fcmae, pictures()).get_supxlabel().replace("\n", " ")
    assert caption.startswith("4 of 6 patches are hidden")
    assert "mean and deviation" in caption and "come from the original picture" in caption
    plain = visualize.reconstruction_grid(small_fcmae(norm_pix_loss=False), pictures()).get_supxlabel()
    assert "prediction" in plain and "original" not in plain


@needs_matplotlib
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pictures_of_any_channel_count_are_shown(channels):
    images = pictures(4, channels)
    figure = visualize.reconstruction_grid(small_fcmae(channels), images, limit=3)
    assert len(figure.axes) == 9
    expected = images[0].mean(axis=-1) if channels < 3 else images[0, ..., :3]
    assert np.array_equal(picture_at(figure, 0, 0, 3), np.rint(expected))


@needs_matplotlib
def test_normalised_pictures_are_stretched_to_black_and_white():
    images = pictures() / 50 - 2
    figure = visualize.reconstruction_grid(small_fcmae(include_preprocessing=False), images)
    originals = [picture_at(figure, 0, column, 3) for column in range(3)]
    assert (np.min(originals), np.max(originals)) == (0, 255)


@needs_matplotlib
def test_predictions_name_both_classes_and_mark_the_wrong_ones_without_colour(tmp_path):
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    figure = visualize.prediction_grid(pictures(2), [0, 1], probabilities, CLASSES, tmp_path / "p.png")
    width, height = png_size(tmp_path / "p.png")
    assert 300 < width < 800 and 150 < height < 500
    right, wrong = figure.axes
    assert right.get_title() == "disc\n\u2713 disc 70%"
    assert wrong.get_title() == "ring\n\u2717 star 60%"
    assert wrong.spines["top"].get_linewidth() > 2 * right.spines["top"].get_linewidth()


@needs_matplotlib
def test_no_more_than_the_limit_is_shown_and_long_names_are_cut():
    probabilities = np.full((9, 2), 0.5)
    figure = visualize.prediction_grid(pictures(9), [0] * 9, probabilities, ["a" * 60, "b"], limit=8)
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 8
    assert max(len(line) for line in drawn[0].get_title().splitlines()) < 30


@needs_matplotlib
def test_curves_hold_the_points_under_their_labels(tmp_path):
    tables = {"from pre-training": [(0, 2.0), (10, 1.0)], "from scratch": [(0, 2.5), (10, float("nan")), (20, 2.0)]}
    figure = visualize.curves(tables, tmp_path / "c.png", x="step", y="loss")
    width, height = png_size(tmp_path / "c.png")
    assert 600 < width < 1200 and 400 < height < 800
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(tables)
    for line, rows in zip(ax.lines, tables.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), rows)
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()


@needs_matplotlib
@pytest.mark.parametrize("last", [4, 3.5])
def test_whole_numbers_get_whole_ticks(last):
    (ax,) = visualize.curves({"loss": [(1, 3.0), (2, 2.0), (last, 1.0)]}, x="epoch").axes
    assert all(float(tick).is_integer() for tick in ax.get_xticks()) == (last == 4)


@needs_matplotlib
def test_pyplot_keeps_no_figure():
    visualize.curves({"loss": [(0, 1.0)]})
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


HALF = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: visualize.reconstruction_grid(f, pictures()[0]), r"images must be a batch .*\(32, 48, 3\)"),
        (lambda f: visualize.reconstruction_grid(f, pictures()[:0]), r"at least one.*\(0, 32, 48, 3\)"),
        (lambda f: visualize.reconstruction_grid(f, pictures(), limit=0), "limit must be a positive int.*: 0"),
        (
            lambda f: visualize.reconstruction_grid(f, pictures(), visible=np.array([[0, 1]])),
            "visible must have a row per image.*: 1 rows, 3 images",
        ),
        (
            lambda f: visualize.prediction_grid(pictures(2), [0], HALF, CLASSES),
            r"need labels \(2,\) and probabilities \(2, 3\)\. Received: \(1,\) and \(2, 3\)",
        ),
        (
            lambda f: visualize.prediction_grid(pictures(2), [0, 3], HALF, CLASSES),
            r"labels must be in \[0, 3\).*: 0 to 3",
        ),
        (
            lambda f: visualize.prediction_grid(pictures(2), [0, 1], HALF * 9, CLASSES),
            r"probabilities must be in \[0, 1\].*: 3 to 3\. Logits need a softmax",
        ),
        (lambda f: visualize.curves({}), r"tables must hold at least one curve.*: \{\}"),
        (lambda f: visualize.curves({"loss": [1.0, 2.0]}), r"the curve 'loss' must be pairs.*shape \(2,\)"),
    ],
)
@needs_matplotlib
def test_bad_input_is_told_in_one_line(fcmae, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(fcmae)
    assert "\n" not in str(caught.value)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails, as when it is missing
    with pytest.raises(ImportError, match=r'pip install "keras_convnextv2\[plots\]"'):
        visualize.curves({"loss": [(0, 1.0)]})


@needs_matplotlib
def test_a_confusion_matrix_has_counts_names_and_the_share_of_each_row(tmp_path):
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    figure = visualize.confusion_matrix(counts, CLASSES, path=tmp_path / "c.png")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == list("310000202")
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shown[[0, 2]], [[0.75, 0.25, 0], [0.5, 0, 0.5]])
    assert np.ma.getmaskarray(ax.images[0].get_array())[1].all() or np.isnan(shown[1]).all()
    assert min(png_size(tmp_path / "c.png")) > 250


@needs_matplotlib
def test_a_large_confusion_matrix_lists_the_most_frequent_confusions(tmp_path):
    counts = 10 * np.eye(200, dtype=int)
    counts[7, 9], counts[150, 3] = 4, 6
    names = [f"c{i}" for i in range(200)]
    figure = visualize.confusion_matrix(counts, names, path=tmp_path / "c.png")
    (ax,) = figure.axes
    listed = ax.texts[0].get_text().splitlines()
    assert listed == ["most frequent confusions", "c150 as c3: 6 of 16", "c7 as c9: 4 of 14"]
    box = ax.get_window_extent()
    assert (box.x0, box.width, box.height) == pytest.approx((96, 1600, 1600))  # each cell has its whole pixels
    assert min(png_size(tmp_path / "c.png")) >= 1600


def test_confusions_by_hand():
    counts = np.array([[5, 1, 2], [4, 0, 0]])
    expected = [("a", "b", 1), ("a", "x", 2), ("b", "a", 4)]
    found = visualize.confusions(counts, ["a", "b"], ["a", "b", "x"])
    assert [row[:3] for row in found] == sorted(expected, key=lambda row: -row[2])
    assert [row[3] for row in found] == [4, 8, 8]


@needs_matplotlib
def test_a_contact_sheet_keeps_the_shape_of_each_picture(tmp_path):
    images = [np.full((40, 20, 3), 200, "uint8"), np.full((10, 30, 1), 9, "uint8")] * 5
    figure = visualize.contact_sheet(images, ["a name that is much too long\n87%"] * 10, tmp_path / "s.png")
    (ax,) = figure.axes
    left, right, bottom, top = ax.images[0].get_extent()
    assert (bottom - top) / (right - left) == pytest.approx(2)
    assert len(ax.images) == 10 and ax.texts[0].get_text() == "a name that is mu\u2026\n87%"
    assert min(png_size(tmp_path / "s.png")) > 250


@needs_matplotlib
def test_names_that_are_no_text_or_formula_are_drawn_letter_by_letter(tmp_path):
    names = ["caf\udce9", "a$b$", r"$\frac{$", "x\ty"]  # the first: a folder whose name is no UTF-8
    drawn = ["caf\\udce9", r"a\$b\$", r"\$\frac{\$", r"x\ty"]
    pictures = [np.zeros((20, 20, 3), "uint8")] * 4
    figure = visualize.contact_sheet(pictures, [f"{name}\n50%" for name in names], tmp_path / "s.png")
    assert [text.get_text() for text in figure.axes[0].texts] == [f"{name}\n50%" for name in drawn]
    figure = visualize.confusion_matrix(np.eye(4, dtype=int), names, path=tmp_path / "c.png")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == drawn
    found = {"boxes": np.array([[1, 2, 9, 9]] * 4), "scores": np.ones(4), "classes": np.arange(4)}
    visualize.segmentation(pictures[:1], [np.arange(400).reshape(20, 20) % 4], names, path=tmp_path / "l.png")
    visualize.detections(pictures[:1], [found], names, path=tmp_path / "d.png")
    visualize.prediction_grid(np.stack(pictures), np.arange(4), np.eye(4), names, tmp_path / "p.png")


@needs_matplotlib
def test_what_does_not_fit_the_names_is_refused():
    with pytest.raises(ValueError, match=r"a row a class and a column an answer, \(2, 3\). Received: \(3, 2\)"):
        visualize.confusion_matrix(np.zeros((3, 2), int), ["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="a caption for each. Received: 1 and 2"):
        visualize.contact_sheet([np.zeros((4, 4, 3))], ["a", "b"])


@needs_matplotlib
def test_overlays_show_photo_truth_and_prediction(tmp_path):
    photos = [np.full((20, 30, 3), 200, "uint8"), np.full((30, 24, 1), 100, "uint8")]
    truths = [np.zeros((20, 30), int), np.full((30, 24), 2)]
    truths[0][:5] = 255
    answers = [np.ones((20, 30), int), np.full((30, 24), 2)]
    figure = visualize.segmentation(photos, answers, CLASSES, truths, tmp_path / "maps.png")
    assert [ax.get_title() for ax in figure.axes[:3]] == ["photo", "truth", "prediction"] and len(figure.axes) == 6
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(CLASSES)
    shown = picture_at(figure, 0, 1, 3)
    assert not shown[:5].any() and shown[5:].any()  # pixels that do not count are black
    assert not np.array_equal(picture_at(figure, 0, 1, 3)[10, 10], picture_at(figure, 0, 2, 3)[10, 10])
    assert len(visualize.segmentation(photos, answers, CLASSES).axes) == 4
    named = visualize.segmentation(photos, answers, None).legends[0].get_texts()
    assert {text.get_text() for text in named} == {"1", "2"}
    with pytest.raises(ValueError, match="maps must hold 0..1, a class each, or 255. Received: 2."):
        visualize.segmentation(photos, answers, 2)
    png_size(tmp_path / "maps.png")


@needs_matplotlib
def test_detections_are_drawn_beside_the_truth(tmp_path):
    photos = [np.full((20, 30, 3), 200, "uint8"), np.full((30, 24, 1), 100, "uint8")]
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 2:8, 3:12] = True
    truth = {"boxes": np.array([[3.0, 2, 12, 8]]), "classes": np.array([1]), "masks": mask}
    nothing = {"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int), "scores": np.zeros(0)}
    found = {"boxes": np.repeat(truth["boxes"], 2, 0), "classes": np.array([1, 0]), "scores": np.array([0.9, 0.1])}
    answers, truths = [found, nothing], [truth, {**nothing, "masks": None}]
    figure = visualize.detections(photos, answers, CLASSES, truths, tmp_path / "found.png")
    assert [ax.get_title() for ax in figure.axes[:3]] == ["photo", "truth", "detections"] and len(figure.axes) == 6
    assert [len(ax.patches) for ax in figure.axes] == [0, 1, 1, 0, 0, 0]  # the second one scores too little
    assert [text.get_text() for text in figure.axes[2].texts] == ["90"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [CLASSES[1]]
    shown = picture_at(figure, 0, 1, 3)
    assert not np.array_equal(shown[5, 5], [200] * 3) and np.array_equal(shown[15, 15], [200] * 3)
    for pictures, answers, message in (([], [], "one at least"), (photos, [found], "each of 2 pictures. Received: 1.")):
        with pytest.raises(ValueError, match=message):
            visualize.detections(pictures, answers, CLASSES)
    png_size(tmp_path / "found.png")


@needs_matplotlib
@pytest.mark.parametrize(
    "pictures, maps, message",
    [
        ([], [], "pictures must be one at least. Received: none."),
        ([np.zeros((2, 3, 3))], [], "prediction must be a map for each of 1 pictures. Received: 0."),
        ([np.zeros((2, 3, 3))], [np.zeros((3, 2), int)], r"the size of its picture \(2, 3\). Received: \(3, 2\)."),
    ],
)
def test_maps_that_do_not_fit_are_named(pictures, maps, message):
    with pytest.raises(ValueError, match=message):
        visualize.segmentation(pictures, maps, CLASSES)
