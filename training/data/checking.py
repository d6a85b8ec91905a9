"""Finding what cannot be read before hours of training have passed."""

import concurrent.futures

from training.data.decode import UnreadableImage
from training.data.picture_source import PictureSource

NAMED = 20  # files in one error
NAMED_CLASSES = 5  # in one line
EVERY = 5000  # pictures between two lines of progress


def say_held_out(source, say):
    """Says of a source to test on that it was divided from the rest for want of such a part, and how."""
    if isinstance(source, PictureSource) and source.held_out:
        how = f"{source.count:,} pictures are held out by their names (validation_split={source.held_out:g})"
        say(f"{source.name}: the folder has no such part, so {how}")


def say_lacking_classes(source, seen, say, what, measure, alone):
    """Says of a source to test on which classes it has nothing of, or that there is one class alone.

    Args:
        seen: the numbers of the classes that are there, each once or more.
        what, measure: words for what a class is seen by, and for what therefore says nothing about it.
        alone: what follows from one class alone.
    """
    if len(source.classes) == 1:
        say(f"there is one class alone, {source.classes[0]!r}: {alone}")
    seen = set(map(int, seen))
    lacking = [name for number, name in enumerate(source.classes) if number not in seen]
    if lacking:
        named, more = ", ".join(lacking[:NAMED_CLASSES]), len(lacking) - NAMED_CLASSES
        named += f" and {more} more" if more > 0 else ""
        say(f"{source.name} has no {what} of {named}: the {measure} says nothing about them")


def require_readable(source, say, workers=None):
    """Opens every picture of a source, in parallel, as far as its header.

    Raises:
        UnreadableImage: names all that cannot be opened.
    """
    if isinstance(source, PictureSource):
        rule = f"every picture of {source.name} must be readable"
        for _ in each(source, source.check, say, rule, "pictures", UnreadableImage, workers):
            pass


def each(source, check, say, rule, what, kind=ValueError, workers=None):
    """What `check(index)` returns for every picture of a source, in parallel and in their order.

    Args:
        rule: what must hold of all of them.
        what: is checked, a word for the line of progress.
        kind: of the error.
    Raises:
        ValueError, UnreadableImage: at the end, with the texts of all such errors that `check` raised.
    """

    def checked(index):
        try:
            return check(index), None
        except (ValueError, UnreadableImage) as error:
            return None, str(error)

    bad = []
    with concurrent.futures.ThreadPoolExecutor(workers or None) as pool:
        for done, (found, reason) in enumerate(pool.map(checked, range(source.count)), 1):
            if reason is None:
                yield found
            else:
                bad.append(reason)
            if done % EVERY == 0:
                say(f"checked {done:,} of {source.count:,} {what} of {source.name}", progress=True)
    if bad:
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise kind(f"{rule}. Received: {len(bad)} that are not: {'; '.join(bad[:NAMED])}{more}")
