"""The recipes against a table that was typed from the paper and the released files, not made from the code."""

import csv
import dataclasses
import pathlib

import pytest

from tools import recipes_page
from training.configs import Detect, Finetune, Pretrain, Segment
from training.recipes import COCO_AP, MIOU, RECIPES, SMALL_RECIPES, TOP_1, about

with pathlib.Path(__file__).with_name("recipes_of_the_paper.csv").open() as file:
    PAPER = {row.pop("recipe"): row for row in csv.DictReader(file)}
with pathlib.Path(__file__).with_name("segmentation_of_the_paper.csv").open() as file:
    ADE20K = {row.pop("recipe"): row for row in csv.DictReader(file)}

with pathlib.Path(__file__).with_name("detection_of_the_papers.csv").open() as file:
    DETECTION = {row.pop("recipe"): row for row in csv.DictReader(file)}


def test_the_table_and_the_recipes_of_the_paper_are_the_same_ones():
    assert {*PAPER, *ADE20K, *DETECTION} == {name for name in RECIPES if name not in SMALL_RECIPES}
    assert {name for name, row in PAPER.items() if row["top_1"]} == set(TOP_1)


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_has_the_numbers_of_the_paper(name):
    recipe, row = RECIPES[name], dict(PAPER[name])
    assert type(recipe) is (Pretrain if name.startswith("fcmae") else Finetune)
    assert recipe.size == name.split("_")[-1]
    side, crop, top_1 = int(row.pop("side")), row.pop("eval_crop"), row.pop("top_1")
    assert recipe.image_size == (side, side)
    if crop:
        assert recipe.crop_fraction == (None if crop == "none" else float(crop))
    if top_1:
        assert TOP_1[name] == float(top_1)
    for field, text in row.items():
        value = getattr(recipe, field, "")  # an FCMAE has no fields of a classifier: the cell is empty
        if text in ("", "none"):
            assert value == {"": "", "none": None}[text], field
        elif isinstance(value, str):
            assert value == text, field
        else:
            assert value == pytest.approx(float(text), rel=1e-12, abs=0), field


@pytest.mark.parametrize("name", ADE20K)
def test_a_segmenters_recipe_has_the_numbers_of_the_paper_and_of_v1(name):
    recipe, row = RECIPES[name], dict(ADE20K[name])
    assert type(recipe) is Segment and recipe.size == name.split("_")[-1]
    assert recipe.image_size == (int(row["side"]), int(row.pop("side")))
    assert recipe.resize == (int(row.pop("long")), int(row.pop("short")))
    assert recipe.warmup_steps(20_210) == int(row.pop("warmup_steps"))
    assert MIOU.get(name, "") == (float(row["miou"]) if row["miou"] else "")
    row.pop("miou")
    for field, text in row.items():
        assert getattr(recipe, field) == pytest.approx(float(text), rel=1e-12), field
    assert (recipe.scale, recipe.largest_share, recipe.poly_power, recipe.min_lr) == ((0.5, 2.0), 0.75, 1.0, 0.0)
    assert recipe.flip and recipe.distort and not recipe.whole and recipe.beta_2 == 0.999


@pytest.mark.parametrize("name", DETECTION)
def test_a_detectors_recipe_has_the_numbers_of_its_papers(name):
    recipe, row = RECIPES[name], dict(DETECTION[name])
    assert type(recipe) is Detect
    for field in ("image_size", "scale", "resize", "evaluation_resize", "mean", "fall_epochs"):
        values = tuple(float(value) for value in row.pop(field).split())
        assert getattr(recipe, field) == pytest.approx(values), field
    published = tuple(float(row.pop(kind)) for kind in ("box_ap", "mask_ap") if row[kind])
    row = {field: text for field, text in row.items() if field not in ("box_ap", "mask_ap")}
    assert COCO_AP.get(name, ()) == published
    for field, text in row.items():
        value = getattr(recipe, field)
        if isinstance(value, str | bool):
            assert str(value).lower() == text, field
        else:
            assert value == pytest.approx(float(text), rel=1e-12), field
    assert recipe.flip and not recipe.distort and recipe.beta_2 == 0.999 and recipe.max_detections == 100
    assert (recipe.fpn_dim, recipe.box_dim, recipe.proposals, recipe.roi_samples) == (256, 1024, 1000, 512)


def test_what_all_recipes_of_the_paper_share():
    for name in PAPER:
        recipe = RECIPES[name]
        assert (recipe.beta_1, recipe.epsilon, recipe.clip_norm) == (0.9, 1e-8, None), name
        assert (recipe.stem_patch_size, recipe.crop, recipe.flip) == (4, "random_resized", True), name
        assert recipe.crop_scale == ((0.2, 1.0) if isinstance(recipe, Pretrain) else (0.08, 1.0)), name
        if isinstance(recipe, Pretrain):
            assert (recipe.mask_ratio, recipe.decoder_dim, recipe.decoder_depth) == (0.6, 512, 1), name
            assert (recipe.patches, recipe.mask_patch_size, recipe.norm_pix_loss) == ((49, 19), 32, True), name
    assert {RECIPES[name].classes for name in PAPER if name.startswith("finetune_22k_") and "1k" not in name} == {21841}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_comes_from(name):
    said = about(name)
    assert said.source and said.hardware and said.expected and said.data
    assert not any(set("{}") & set(text) for text in (said.expected, said.init, *said.notes))
    published = [f"top-1 {TOP_1[name]}%"] if name in TOP_1 else [f"mIoU {MIOU[name]}%"] if name in MIOU else []
    published += [f"{ap}%" for ap in COCO_AP.get(name, ())]
    assert all(number in said.expected for number in published) and ("%" in said.expected) == bool(published)


def test_where_the_paper_seems_misprinted_a_note_says_so():
    assert any("misprints it as 6.25e-3" in note for note in about("finetune_base").notes)
    assert any("undecided" in note and "base_lr=1.25e-4" in note for note in about("finetune_huge").notes)
    assert "ours" in about("finetune_cub").source and "not run yet" in about("finetune_cub").source


def test_the_page_of_recipes_is_current():
    page = recipes_page.PAGE.read_text()
    assert recipes_page.with_tables(page) == page, "run python -m tools.recipes_page"
    for name in RECIPES:
        assert page.count(f"| `{name}` |") == 1, name


def test_a_changed_recipe_changes_the_page(monkeypatch):
    changed = dataclasses.replace(RECIPES["finetune_base"], epochs=101)
    monkeypatch.setitem(RECIPES, "finetune_base", changed)
    page = recipes_page.PAGE.read_text()
    assert recipes_page.with_tables(page) != page
