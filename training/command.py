"""What the command lines of all programs do alike: help in our order, libraries that keep quiet, errors of one line."""

import contextlib
import logging as python_logging
import sys

from absl import flags, logging

from keras_convnextv2 import keep_memory
from training.checkpoints import NotFinite
from training.loop import Stopped

HELP = ("-h", "-help", "--help", "--helpshort")
BAD_INPUT = (ValueError, OSError, ImportError, NotFinite)  # their texts are written for users


def asks_for_help():
    return bool(set(HELP) & set(sys.argv[1:]))


def purpose():
    """What the program is for: the text at the top of its file."""
    return (sys.modules["__main__"].__doc__ or "").strip()


def flag_lines(names, values=flags.FLAGS, width=8):
    """The help of our flags, a line each."""
    lines = [f"  --{name:{width}}  {values[name].help.splitlines()[0].rstrip(';')}" for name in names]
    return ["\nflags (--helpfull has those of absl too):", *lines]


def require_flags_only(argv):
    """Raises for an argument that is no flag."""
    if len(argv) > 1:
        raise ValueError(f"All arguments are flags. Received: {argv[1]!r}. Did you mean --data {argv[1]}?")


def begin():
    """Before the first computation of a program."""
    if line := keep_memory():
        logging.info(line)
    for library in ("jax", "tensorflow"):  # they report each kind of device they lack, and each reduction
        python_logging.getLogger(library).setLevel(python_logging.WARNING)


def exit_code(body, go_on=lambda: "The same command goes on.", bad_input=BAD_INPUT):
    """What a shell is told of `body()`: 0, 1 for bad input, 128 and its number for a signal.

    Args:
        go_on: () -> what to do after a signal, in a sentence or with a command at its end.
    """
    try:
        body()
    except Stopped as stopped:
        _say(f"{stopped}. {go_on()}")
        return stopped.exit_code
    except KeyboardInterrupt:
        _say(f"stopped. {go_on()}")
        return 130
    except bad_input as error:  # one line; -v 1 shows where it came from
        logging.debug("traceback:", exc_info=True)
        _say(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return 1
    return 0


def _say(text):
    """The last words, if anybody hears them: a terminal that hung up is gone, and the exit code must still come."""
    with contextlib.suppress(OSError):
        print(f"\n{text}", file=sys.stderr, flush=True)
