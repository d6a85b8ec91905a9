import pytest

from tests.training.colours import by_colour


@pytest.fixture
def saved(tmp_path):
    """The path of a saved model of `by_colour`."""
    by_colour().save(tmp_path / "colours.keras")
    return str(tmp_path / "colours.keras")
