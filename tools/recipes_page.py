"""Write the tables of recipes into docs/recipes.md: python -m tools.recipes_page"""

import pathlib

from tools.page import replaced
from training import cost
from training.configs import Pretrain
from training.recipes import RECIPES, SMALL_RECIPES, about

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "recipes.md"
HEAD = ("recipe", "pictures", "epochs", "batch", "peak rate", "expected", "exaFLOP", "MB a picture", "starts from")
NUMBERS = ("epochs", "batch", "peak rate", "exaFLOP", "MB a picture")  # flush right


def row(name):
    """The cells of one recipe."""
    recipe, said = RECIPES[name], about(name)
    compute = f"{cost.exaflops(recipe, said.images, said.classes or 1000):.3g}" if said.images else ""
    side, memory = "x".join(map(str, recipe.image_size)), cost.activation_bytes(recipe) / 1e6
    cells = (
        recipe.epochs,
        f"{recipe.batch_size:,}",
        f"{recipe.peak_lr:.3g}",
        said.expected,
        compute,
        f"{memory:,.0f}" if memory >= 10 else f"{memory:.1f}",
    )
    return (f"`{name}`", side, *cells, said.init)


def families():
    """[(the About that they share but for numbers, their names)]"""
    found = {}
    for name, recipe in RECIPES.items():
        said = about(name)
        key = (said.source, said.hardware, said.data) if name not in SMALL_RECIPES else ("ours",)
        found.setdefault((isinstance(recipe, Pretrain), *key), []).append(name)
    return list(found.values())


def table(names):
    """The Markdown of a family: where its recipes come from, then a row each."""
    said, ours = about(names[0]), names[0] in SMALL_RECIPES
    facts = [] if ours else [f"**{said.source}.** Data: {said.data}. Hardware: {said.hardware}.", ""]
    bars = ["---:" if title in NUMBERS else "---" for title in HEAD]
    lines = [HEAD, bars, *map(row, names)]
    facts += [f"| {' | '.join(map(str, cells))} |" for cells in lines]
    notes = dict.fromkeys((note, "") for name in names for note in about(name).notes)
    who = {note: [name for name in names if note in about(name).notes] for note, _ in notes}
    facts += [""] if who else []
    for note, those in who.items():
        facts.append(f"- {'' if len(those) == len(names) else ', '.join(f'`{name}`' for name in those) + ': '}{note}")
    return "\n".join(facts)


def with_tables(page):
    """The text of the page with the tables as they must be."""
    return replaced(page, "recipes", "recipes_page", "\n\n".join(map(table, families())))


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
