"""Run by hand from the checkout, `python -m tests.golden.make_recipes`, when a recipe was changed on purpose."""

import dataclasses
import pathlib

from training.recipes import RECIPES

FILE = pathlib.Path(__file__).with_name("recipes.txt")
IMAGES = 1_281_167  # ImageNet-1K


def resolved():
    """One line a recipe: what differs from its class, and what follows for ImageNet."""
    lines = []
    for kind in dict.fromkeys(type(recipe) for recipe in RECIPES.values()):
        defaults = [f"{f.name}={f.default!r}" for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING]
        lines.append(f"{kind.__name__}: {' '.join(defaults)}")
    for name, recipe in RECIPES.items():
        given = [(f, getattr(recipe, f.name)) for f in dataclasses.fields(recipe)]
        changed = " ".join(f"{f.name}={value!r}" for f, value in given if value != f.default)
        steps = f"{recipe.total_steps(IMAGES)} steps, {recipe.warmup_steps(IMAGES)} warm-up"
        lines.append(f"{name}: {type(recipe).__name__} {changed} -> peak {recipe.peak_lr:.6g}, {steps}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(resolved())
