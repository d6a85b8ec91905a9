"""The operations that `benchmarks.operations` measures run in every form."""

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks import operations
from keras_convnextv2.kernels.table import FORM_VARIABLE, FORMS

HERE = [form for form in FORMS if form != "torch" or keras.backend.backend() == "torch"]


@pytest.mark.parametrize("name", ["depthwise", "layer_norm", "pointwise", "gelu_grn"])
def test_every_form_gives_the_same(monkeypatch, name):
    found = []
    for form in HERE:
        monkeypatch.setenv(FORM_VARIABLE, form)
        function, arguments = operations.operations(2, 4, 8, "float32")[name]
        forward, both, wait = operations.prepared(function, arguments)
        for call in (forward, both):
            wait(call())
        found.append([ops.convert_to_numpy(part) for part in keras.tree.flatten((forward(), both()))])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)
