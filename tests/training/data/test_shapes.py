import numpy as np
import pytest

from training.data import shapes


@pytest.fixture(scope="module")
def drawn():
    return shapes.shapes(60, "train")


def test_classes_are_balanced_and_take_turns(drawn):
    images, labels = drawn
    assert images.shape == (60, 64, 64, 3) and images.dtype == np.uint8
    assert len(shapes.CLASSES) == 10
    assert np.bincount(labels).tolist() == [6] * 10
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_a_picture_depends_on_its_index_alone(drawn):
    images, labels = shapes.shapes(7, "train", first=25)
    np.testing.assert_array_equal(images, drawn[0][25:32])
    np.testing.assert_array_equal(labels, drawn[1][25:32])


def test_splits_and_seeds_share_no_picture(drawn):
    sets = [
        drawn[0],
        shapes.shapes(60, "unlabelled")[0],
        shapes.shapes(60, "test")[0],
        shapes.shapes(60, "train", seed=1)[0],
    ]
    assert len({image.tobytes() for images in sets for image in images}) == 240


def test_shape_stands_out_from_its_ground():
    # a disc covers the centre; the corners are ground: most pictures must differ there in some channel
    images, labels = shapes.shapes(200, "train")
    discs = images[labels == 0].astype(float)
    centre, corner = discs[:, 28:36, 28:36].mean((1, 2)), discs[:, ::63, ::63].mean((1, 2))
    assert (np.abs(centre - corner).max(-1) > 0.2 * 255).mean() > 0.8


def area_of(name):
    """Area of a shape of radius 1, counted on a picture where its radius is a quarter, turned by .3."""
    frame = shapes._Frame(np.full((1, 2), 0.5), np.array([0.3]), np.array([0.25]))
    return shapes._INSIDE[name](frame).mean() / 0.25**2


tan36, tan18 = np.tan(np.pi / 5), np.tan(np.pi / 10)


@pytest.mark.parametrize(
    "name, area",
    [
        ("disc", np.pi * 0.9**2),
        ("ring", np.pi * (0.95**2 - 0.55**2)),
        ("square", 1.56**2),
        ("triangle", 3 * np.sqrt(3) * 0.52**2),
        ("star", 5 * 0.36**2 * (tan36 + tan36**2 / tan18)),  # a pentagon and five points
        ("cross", 2 * 1.9 * 0.56 - 0.56**2),
        ("arrow", 1.05 * 0.5 + 0.85 * 0.95**2),
        ("hexagon", 2 * np.sqrt(3) * 0.82**2),
    ],
)
def test_shapes_have_the_areas_of_their_names(name, area):
    # 128 x 128 points in a picture whose width is 4: the boundary's share is about a thousandth
    assert area_of(name) == pytest.approx(area, rel=0.02)


def test_edges_are_antialiased():
    images, labels = shapes.shapes(40, "test")
    levels = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in images[labels == 3]]
    assert min(levels) > 20  # two flat colours without gradients would give 2 or 3


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="split must be one of .*'unlabelled'.*Received: 'val'"):
        shapes.shapes(3, "val")
    with pytest.raises(ValueError, match="at least one picture.*count=0"):
        shapes.shapes(0, "train")
