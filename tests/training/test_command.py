import errno
import io
import signal
import sys

import pytest

from training.command import exit_code
from training.loop import Stopped


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


def raises(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    "error, code", [(Stopped("stopped", signal.SIGHUP), 129), (KeyboardInterrupt(), 130), (ValueError("rate"), 1)]
)
def test_a_terminal_that_is_gone_changes_no_exit_code(monkeypatch, error, code):
    monkeypatch.setattr(sys, "stderr", Gone())
    assert exit_code(raises(error)) == code


@pytest.mark.parametrize(
    "error, line",
    [(ValueError("a must be\n  b.\n\nReceived: c"), "a must be b. Received: c"), (ValueError(" \n"), "ValueError")],
)
def test_an_error_is_one_line_with_words(capsys, error, line):
    assert exit_code(raises(error)) == 1
    assert capsys.readouterr().err == f"\nerror: {line}\n"
