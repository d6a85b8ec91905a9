"""Finding what cannot be read before hours of training have passed."""

import concurrent.futures

from training.data.decode import UnreadableImage
from training.data.picture_source import PictureSource

NAMED = 20  # files in one error
EVERY = 5000  # pictures between two lines of progress


def require_readable(source, say, workers=None):
    """Opens every picture of a source, in parallel, as far as its header.

    Raises:
        UnreadableImage: names all that cannot be opened.
    """
    if not isinstance(source, PictureSource):
        return

    def reason(index):
        try:
            source.check(index)
        except UnreadableImage as error:
            return str(error)

    bad = []
    with concurrent.futures.ThreadPoolExecutor(workers or None) as pool:
        for done, found in enumerate(pool.map(reason, range(source.count)), 1):
            bad += [found] * (found is not None)
            if done % EVERY == 0:
                say(f"checked {done:,} of {source.count:,} pictures of {source.name}", progress=True)
    if bad:
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UnreadableImage(
            f"every picture of {source.name} must be readable. Received: {len(bad)} that are not: "
            f"{'; '.join(bad[:NAMED])}{more}"
        )
