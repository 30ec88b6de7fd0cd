from orch_analysis.figures import style
from orch_analysis.reports.study_sentences import name_of
from orch_core.recipes import RECIPES


def test_an_unknown_algorithm_gets_a_colour_that_no_recipe_has():
    known = {recipe.colour for recipe in RECIPES.values()}
    unknown = {style.colour(name) for name in ("clip", "dino", "eam", "mae of ours", "ijepa", "gpt", "")}
    assert not unknown & known
    assert len(unknown) > 1


def test_known_algorithms_have_their_recipes_colour_and_name():
    assert style.colour("mae") == RECIPES["mae@1"].colour
    assert (name_of("moco-v3"), name_of("dinov2@2"), name_of("clip")) == ("MoCo v3", "DINOv2", "clip")
