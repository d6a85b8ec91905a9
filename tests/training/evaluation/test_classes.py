import pytest

from keras_convnextv2.preprocessing import imagenet_classes
from training.evaluation.classes import match_classes

NAMES = ("cat", "Great Dane", "eel")
IDS, WORDS = zip(*imagenet_classes(), strict=True)
TWICE = tuple(f"{word} ({id})" if word in ("crane", "maillot") else word for id, word in imagenet_classes())


def match(classes, names=NAMES, ids=(), outputs=3):
    return match_classes(classes, names, ids, whose="the data", outputs=outputs)


def test_names_decide_and_not_the_order():
    assert match(("eel", "cat", "Great Dane")) == ((2, 0, 1), "by name, 3 of the model's 3")
    assert match(("eel",))[0] == (2,)


def test_letters_and_digits_decide_where_the_text_differs():
    assert match(("great-dane", "CAT"))[0] == (1, 0)


def test_the_very_text_comes_first():
    assert match(("a_b", "A b"), ("A b", "a_b"), outputs=2)[0] == (1, 0)


def test_imagenet_is_known_by_wordnet_and_by_name():
    chosen, how = match(("n01443537", "golden retriever", "jack o'lantern"), TWICE, IDS, 1000)
    assert chosen == (1, WORDS.index("golden_retriever"), WORDS.index("jack-o'-lantern"))
    assert how == "by name, 3 of the model's 1000"


def test_without_names_the_order_decides_where_the_numbers_are_equal():
    chosen, how = match(("x", "y", "z"), None)
    assert chosen == (0, 1, 2) and "does not know its classes by name" in how
    with pytest.raises(
        ValueError, match="names of its 3 outputs needs data of as many classes. .* the data, which has 2"
    ):
        match(("x", "y"), None)


@pytest.mark.parametrize(
    "classes, names, message",
    [
        (("cat", "ell"), NAMES, "of the data must be among the 3 of the model. Received: 'ell', which.*Closest: eel"),
        (tuple("vwxyz"), NAMES, "'v', 'w', 'x' and 2 more, which it does not know. It knows cat, Great Dane, eel$"),
        (("A/B",), ("a b", "a-b", "eel"), "'A/B' of the data may be several outputs: a b, a-b"),
        (("cat", "Cat"), NAMES, "must be another output. Received: 'cat', 'Cat' for 'cat'"),
        (("crane",), TWICE, r"'crane' of the data may be several outputs: crane \(n\d+\), crane \(n\d+\)"),
    ],
)
def test_what_does_not_match_is_named(classes, names, message):
    with pytest.raises(ValueError, match=message) as caught:
        match(classes, names, IDS if names is TWICE else ())
    assert "\n" not in str(caught.value)
