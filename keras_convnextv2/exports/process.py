"""A model handed to a process of another backend."""

import errno
import os
import pathlib
import subprocess
import sys
import tempfile

from keras_convnextv2 import kernels
from keras_convnextv2.whole import full_disk

# Its standard input ends with the process that started it, however that ends; then it has nobody to work for.
PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
import keras, keras_convnextv2 as kc
model = keras.saving.load_model(sys.argv[1], compile=False)
try:
    kc.export_model(model, sys.argv[2], sys.argv[3], verbose=False)
except OSError as error:
    print(error)
    sys.exit(error.errno or 1)
"""


def export_in_process(model, path, format, backend):
    """`export_model` on another backend.

    Raises:
        OSError: the disk is full.
        RuntimeError: the process failed; its last line says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, said = os.path.join(folder, "model.keras"), os.path.join(folder, "said")
        model.save(file)
        package = os.fspath(pathlib.Path(__file__).parents[2])
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",  # the GPU is busy with this process
            "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        }
        environment.pop(kernels.FORM_VARIABLE, None)  # a form of this backend means nothing there
        command = [sys.executable, "-c", PROGRAM, file, os.fspath(path), format]
        with open(said, "w+") as output:
            started = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output)
            with started:
                try:
                    failed = started.wait()
                except BaseException:
                    started.kill()
                    raise
            output.seek(0)
            lines = output.read().strip().splitlines()
    if failed == errno.ENOSPC:
        raise full_disk(path)
    if failed:
        raise RuntimeError(f"the {backend} process that writes {path} failed: {''.join(lines[-1:])}")
