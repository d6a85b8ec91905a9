"""Which output of a model a class of the data is."""

import collections
import difflib
import itertools
import re


def match_classes(classes, names, ids=(), *, whose, outputs):
    """(the number of the output of each class, how they were matched in words).

    A class is an output's name or id, first by the very text, then by its letters and digits in small. Without names
    the classes are the outputs in their order, where there are as many.

    Args:
        classes: names of the data's classes.
        names: what the outputs are called, or None.
        ids: further names of the same outputs, such as WordNet's.
        whose: the data, for errors.
        outputs: how many there are.
    Raises:
        ValueError: a class that no output, or more than one, is called by; two classes of one output.
    """
    if names is None:
        if len(classes) != outputs:
            raise ValueError(
                f"a model that does not know the names of its {outputs} outputs needs data of as many classes. "
                f"Received: {whose}, which has {len(classes)}"
            )
        return tuple(range(outputs)), "in their order: the model does not know its classes by name"
    exact = {text: [number] for texts in (ids, names) for number, text in enumerate(texts)}
    words = [name.removesuffix(f" ({id})") for name, id in itertools.zip_longest(names, ids, fillvalue="")]
    folded = collections.defaultdict(list)
    for texts in (words, ids):
        for number, text in enumerate(texts):
            folded[_folded(text)].append(number)
    found = [exact.get(text) or folded.get(_folded(text), ()) for text in classes]
    unknown = [text for text, numbers in zip(classes, found, strict=True) if not numbers]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        close = difflib.get_close_matches(unknown[0], names, n=3, cutoff=0.5)
        hint = "Closest: " if close else "It knows "
        hint += ", ".join(close or names[:5]) + ", ..." * (not close and len(names) > 5)
        raise ValueError(
            f"the classes of {whose} must be among the {len(names)} of the model. Received: "
            f"{', '.join(map(repr, unknown[:3]))}{more}, which it does not know. {hint}"
        )
    for text, numbers in zip(classes, found, strict=True):
        if len(numbers) > 1:
            raise ValueError(f"{text!r} of {whose} may be several outputs: {', '.join(names[n] for n in numbers)}")
    chosen = tuple(numbers[0] for numbers in found)
    for number, count in collections.Counter(chosen).items():
        if count > 1:
            twice = ", ".join(repr(text) for text, of in zip(classes, chosen, strict=True) if of == number)
            raise ValueError(f"each class of {whose} must be another output. Received: {twice} for {names[number]!r}")
    return chosen, f"by name, {len(chosen)} of the model's {len(names)}"


def require_order(names, classes, *, of, whose):
    """Raises where a model and data both name their classes, and another at one number.

    Args:
        names: the model's, or None.
        classes: names of the data's classes, as many.
        of: whose classes they are, in words.
        whose: the data.
    """
    numbers = tuple(map(str, range(len(classes))))
    if names is None or numbers in (tuple(names), tuple(classes)):
        return
    for number, (ours, theirs) in enumerate(zip(names, classes, strict=True)):
        if ours != theirs:
            rule = f"the classes of {of} must be the model's, in its order: class {number} is {ours!r}"
            raise ValueError(f"{rule}. Received: {theirs!r} in {whose}.")


def _folded(text):
    return re.sub(r"[\W_]+", "_", str(text)).strip("_").casefold()
