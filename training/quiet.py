"""What libraries say of themselves, kept off the terminal: TensorFlow's C++ notes, and what grain lacks."""

import contextlib
import os
import subprocess
import sys

from absl import logging

PROCESSOR = r"cpu_feature_guard|port|computation_placer"
CUDA = r"cud\w+|cuda_\w+"  # what they say matters where there is such a device
NVIDIA = "/dev/nvidiactl"
END = b"\x04\n"
# The program of a process of its own, so that the last words of a crash come through. A process that was begun
# meanwhile may keep the pipe open: the end is said.
FILTER = f"""
import re, sys
note, end = re.compile(sys.argv[1].encode()), {END!r}
for line in sys.stdin.buffer:
    text = line.removesuffix(end)
    if not note.match(text):
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    if text != line:
        break
"""


def quiet_grain():
    """Where JAX is not installed grain warns of its profiler when it is imported, in every process."""
    logging.get_absl_logger().addFilter(lambda record: "jax profiler" not in record.getMessage())


@contextlib.contextmanager
def without_notes():
    """Within it standard error passes through a filter, which keeps back TensorFlow's notes about processor and CUDA.

    None of its settings reaches them all.
    """
    files = PROCESSOR if os.path.exists(NVIDIA) else f"{PROCESSOR}|{CUDA}"
    note = (
        rf"WARNING: All log messages before absl::Init|To enable the following instr|[IWE]\d{{4}} .* ({files})\.cc:\d"
    )
    sys.stderr.flush()
    terminal = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", FILTER, note]
    own = {"start_new_session": True}  # Ctrl-C is for the program
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal, **own) as filtering:
        os.dup2(filtering.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.write(2, END)
            os.dup2(terminal, 2)
            os.close(terminal)
