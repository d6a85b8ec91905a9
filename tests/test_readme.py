"""README's Python runs as it stands."""

import pathlib
import re

import keras
import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOWNLOADED = "a file that you downloaded"


@pytest.mark.slow
def test_the_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in BLOCKS:
        code = compile(block, "README.md", "exec")
        exported_elsewhere = "export_saved_model" in block and keras.backend.backend() != "tensorflow"
        if DOWNLOADED not in block and not exported_elsewhere:  # the export test covers the other backends
            exec(code, namespace)
    assert namespace["pictures"].shape == (2, 64, 96, 3)
    assert set(namespace["maps"].output) == {"P2", "P3", "P4", "P5"}
