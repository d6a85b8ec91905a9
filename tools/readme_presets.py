"""Write the table of presets into README.md: python tools/readme_presets.py"""

import pathlib
import re

import keras_convnextv2 as kc

README = pathlib.Path(__file__).parents[1] / "README.md"
START, END = "<!-- presets: written by tools/readme_presets.py -->", "<!-- end of presets -->"


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
    between = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    if len(between.findall(readme)) != 1:
        raise ValueError(f"README.md must hold one pair of the lines {START!r} and {END!r}")
    # the empty lines let Markdown inside <details> be read as Markdown
    return between.sub(lambda _: f"{START}\n\n{table()}\n\n{END}", readme)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
