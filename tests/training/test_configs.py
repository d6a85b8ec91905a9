import dataclasses
import re

import pytest

from tests.golden.make_recipes import FILE, resolved
from training.configs import Finetune, Pretrain
from training.fields import help_texts, with_settings
from training.recipes import RECIPES, find_recipe, following


def test_resolved_recipes_are_the_golden_ones():
    assert resolved() == FILE.read_text(), "a recipe has changed; on purpose? python -m tests.golden.make_recipes"


@pytest.mark.parametrize("kind", [Pretrain, Finetune])
def test_every_field_has_its_help(kind):
    assert help_texts(kind).keys() == {field.name for field in dataclasses.fields(kind)}


def test_settings_are_read_as_the_types_of_their_fields():
    settings = ["size=nano", "depths=1,1,2,1", "dims=8, 8, 16, 16", "image_size=96,64", "jit=false", "base_lr=1e-3"]
    config = with_settings(Finetune(size="atto"), [*settings, "clip_norm=1", "ema=none", "init=a=b", "batch_size=8"])
    assert (config.size, config.depths, config.dims) == ("nano", (1, 1, 2, 1), (8, 8, 16, 16))
    assert config.image_size == (96, 64)
    assert (config.jit, config.base_lr, config.clip_norm, config.ema) == (False, 1e-3, 1.0, None)
    assert (config.init, config.batch_size, config.network) == ("a=b", 8, ((1, 1, 2, 1), (8, 8, 16, 16)))


@pytest.mark.parametrize(
    "setting, message",
    [
        ("mixupp=0", "must name a field of the Finetune config. Received: 'mixupp'. Closest: mixup, cutmix."),
        ("mixup", "--set needs key=value. Received: 'mixup'."),
        ("image_size=224", "image_size must be two whole numbers, such as 224,192. Received: '224'."),
        ("jit=maybe", "jit must be true or false or none. Received: 'maybe'."),
        ("base_lr=fast", "base_lr must be a finite number. Received: 'fast'."),
        ("size=atom", "Received: 'atom'. Closest: atto"),
        ("accumulation=3", "accumulation must divide batch_size 1024. Received: 3."),
        ("batch_size=0", "batch_size must be at least 1. Received: 0."),
        ("optimizer=adam", "optimizer must be one of adamw, dadapt_adam. Received: 'adam'. Closest: adamw"),
        ("depths=1,2", "depths and dims must come together, one each a stage. Received: ((1, 2), ())."),
        ("label_smoothing=10", "label_smoothing must be in [0, 1). Received: 10.0. Did you mean 0.1?"),
        ("image_size=224,31", "image_size must be at least the total stride 32. Received: (224, 31)."),
        ("warmup_epochs=100", "warmup_epochs must be less than epochs 100. Received: 100.0."),
        ("crop_scale=0.5,0.2", "smallest <= largest <= 1. Received: (0.5, 0.2)."),
        ("layer_decay_type=groups", "one of single, group. Received: 'groups'. Closest: group."),
        ("randaugment=m9", "such as rand-m9-mstd0.5-inc1, or none. Received: 'm9'."),
        ("erasing=25", "erasing must be in [0, 1]. Received: 25.0. Did you mean 0.25?"),
        ("color_jitter=-1", "color_jitter must be at least 0. Received: -1.0."),
        ("epsilon=0", "epsilon must be positive. Received: 0.0."),
        ("epsilon=-1", "epsilon must be positive. Received: -1.0."),
        ("epsilon=nan", "epsilon must be a finite number. Received: nan."),
        ("epsilon=inf", "epsilon must be a finite number. Received: inf."),
        ("base_lr=inf", "base_lr must be a finite number. Received: inf."),
        ("dtype=int8", "dtype must be one of float32, mixed_bfloat16, mixed_float16. Received: 'int8'."),
    ],
)
def test_bad_settings_say_what_came_and_what_works(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        with_settings(Finetune(size="atto"), [setting])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        (["mask_ratio=60"], "mask_ratio must be in (0, 1). Received: 60.0. Did you mean 0.6?"),
        (["mask_ratio=0.99"], "must leave at least one visible patch of 49. Received: 0.99."),
        (["image_size=200,224"], "divisible by the patch size 32. Received: (200, 224). Nearest: (192, 224)."),
        (["patch_size=48"], "patch_size must be a multiple of the total stride 32. Received: 48."),
        (["image_size=32,64", "mask_ratio=0.6"], "at least one visible patch of 2. Received: 0.6."),
    ],
)
def test_masks_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        with_settings(Pretrain(size="atto"), settings)


def test_a_config_made_in_python_is_checked_too():
    with pytest.raises(ValueError, match="image_size must be two whole numbers, such as 224,192. Received: 224"):
        Finetune(size="atto", image_size=224)


def test_derived_numbers():
    config = Finetune(size="atto", batch_size=64, epochs=10, warmup_epochs=2, base_lr=1e-3)
    assert (config.peak_lr, config.epoch_steps(1000), config.total_steps(1000)) == (2.5e-4, 15, 150)
    assert config.warmup_steps(1000) == 30
    assert dataclasses.replace(config, steps=200).warmup_steps(1000) == 40
    with pytest.raises(ValueError, match=r"at most the number of images, 50. Received: 64. Try --set batch_size=50"):
        config.total_steps(50)


def test_an_optimizer_that_finds_its_rate_takes_a_factor_whatever_the_batch():
    config = Finetune(size="atto", batch_size=64, base_lr=1.0, optimizer="dadapt_adam")
    assert (config.peak_lr, config.further_lr) == (1.0, pytest.approx(1.5e-4 * 64 / 256 / 10))
    known = dataclasses.replace(config, optimizer="adamw")
    assert (known.peak_lr, known.further_lr) == (0.25, pytest.approx(0.025))


def test_unknown_recipe_names_the_closest():
    with pytest.raises(ValueError, match="Received: 'finetune_atoo'. Closest: finetune_atto"):
        find_recipe("finetune_atoo", Finetune)
    with pytest.raises(ValueError, match="must name a Pretrain recipe. Received: 'finetune_atto'"):
        find_recipe("finetune_atto", Pretrain)
    with pytest.raises(ValueError, match="Received: None. There are: fcmae_atto"):
        find_recipe(None, Pretrain)


@pytest.mark.parametrize("alpha", ["mixup", "cutmix"])
def test_pairs_need_an_even_batch(alpha):
    config = Finetune(size="atto", batch_size=15)  # without mixing any batch will do
    with pytest.raises(ValueError, match="batch_size must be even for mixup and cutmix.*Received: 15. Try 16."):
        dataclasses.replace(config, **{alpha: 0.8})


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if isinstance(recipe, Pretrain)])
def test_every_pre_training_recipe_is_followed_by_its_own_fine_tuning(name):
    expected = f"finetune_{name.rpartition('_')[2]}"
    assert following(RECIPES[name]) == (expected, {})
    longer = dataclasses.replace(RECIPES[name], epochs=3, warmup_epochs=0.0, seed=7)
    assert following(longer) == (expected, {})
    greyer = dataclasses.replace(RECIPES[name], channels=1, stem_patch_size=1)
    changes = {"channels": 1, "stem_patch_size": 1}
    assert following(greyer) == (expected, {k: v for k, v in changes.items() if getattr(RECIPES[expected], k) != v})
