"""README's Python runs as it stands."""

import pathlib
import re

import keras
import pytest

from keras_convnextv2.weights.presets import find_preset
from tools import readme_presets

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOWNLOADED = "a file that you downloaded"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:new in :UserWarning")  # as the page says
def test_the_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in BLOCKS:
        code = compile(block, "README.md", "exec")
        exported_elsewhere = "export_model" in block and keras.backend.backend() != "tensorflow"
        served = "tf.saved_model" in block  # the export test does that, in a process of TensorFlow alone
        if DOWNLOADED not in block and not exported_elsewhere and not served:  # and covers the other backends
            exec(code, namespace)
    assert namespace["pictures"].shape == (2, 64, 96, 3)
    assert set(namespace["maps"].output) == {"P2", "P3", "P4", "P5"}


def test_the_table_of_presets_is_current():
    written = readme_presets.with_table(README)
    assert written == README, "run python -m tools.readme_presets"
    assert readme_presets.table().count("\n") == 2 + 44 - 1
    row = "| [convnextv2_tiny.fcmae](https://huggingface.co/timm/convnextv2_tiny.fcmae) | tiny |  | 224 |  | 27.9 M |"
    assert row in written


def test_a_readme_without_its_markers_is_said():
    with pytest.raises(ValueError, match="one pair of the lines '<!-- presets: .*' and '<!-- end of presets -->'"):
        readme_presets.with_table("# Without a table")


def test_the_presets_that_snippets_name_exist():
    named = re.findall(r'kc.ConvNeXtV2([A-Z][a-z]+)\(weights="([^"]+)"', README)
    names = [(size.lower(), name) for size, name in named if not name.endswith(".pt")]
    assert len(names) == 3
    for size, name in names:
        assert find_preset(name.removeprefix("hf:"), size).size == size
