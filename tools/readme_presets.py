"""Write the table of presets into README.md: python -m tools.readme_presets"""

import pathlib

import keras_convnextv2 as kc
from tools.page import replaced

README = pathlib.Path(__file__).parents[1] / "README.md"


def table():
    """The Markdown between the two markers."""
    lines = ["| preset | size | classes | input | ImageNet top-1 | parameters |", "|---|---|---:|---:|---:|---:|"]
    for preset in kc.list_presets():
        name = f"[{preset.name}](https://huggingface.co/{preset.hub})"
        top1 = "" if preset.top1 is None else f"{preset.top1}"
        parameters = f"{preset.parameters / 1e6:.1f} M"
        cells = (name, preset.size, preset.classes or "", preset.input_size, top1, parameters)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def with_table(readme):
    """The text of README.md with the table as it must be."""
    return replaced(readme, "presets", "readme_presets", table())


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
