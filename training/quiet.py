"""What libraries say of themselves, kept off the terminal: TensorFlow's C++ notes, and what grain lacks."""

import contextlib
import os
import re
import sys
import tempfile

from absl import logging

PROCESSOR = rb"cpu_feature_guard|port|computation_placer"
CUDA = rb"cud\w+|cuda_\w+"  # what they say matters where there is such a device
NVIDIA = "/dev/nvidiactl"


def quiet_grain():
    """Where JAX is not installed grain warns of its profiler when it is imported, in every process."""
    logging.get_absl_logger().addFilter(lambda record: "jax profiler" not in record.getMessage())


@contextlib.contextmanager
def without_notes():
    """Within it nothing reaches standard error; what is no note of TensorFlow's about processor or CUDA follows later.

    None of its settings reaches them all.
    """
    files = PROCESSOR if os.path.exists(NVIDIA) else PROCESSOR + b"|" + CUDA
    note = re.compile(
        rb"WARNING: All log messages before absl::Init|To enable the following instr|[IWE]\d{4} .* (%b)\.cc:\d" % files
    )
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not note.match(line):
                    os.write(2, line)
