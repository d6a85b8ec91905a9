"""The part of a page that a tool writes, between two lines of comment."""

import re


def replaced(page, what, tool, content):
    """The text of a page with other content between its markers of `what`, which name the tool.

    Raises:
        ValueError: not exactly one pair of markers.
    """
    start, end = f"<!-- {what}: written by tools/{tool}.py -->", f"<!-- end of {what} -->"
    between = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if len(between.findall(page)) != 1:
        raise ValueError(f"the page must hold one pair of the lines {start!r} and {end!r}")
    # the empty lines let Markdown inside <details> be read as Markdown
    return between.sub(lambda _: f"{start}\n\n{content}\n\n{end}", page)
