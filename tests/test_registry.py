import pytest

from tapernet.errors import ConfigError
from tapernet.registry import Registry, unknown


def test_names_are_found_and_listed() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("two")(2)
    registry.register("one")(1)
    assert registry["two"] == 2
    assert list(registry) == ["one", "two"]
    assert "two" in registry
    assert "three" not in registry


def test_an_unknown_name_lists_the_valid_ones() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    registry.register("seven")(7)
    with pytest.raises(ConfigError, match=r"unknown number 'sevn' \(did you mean 'seven'\?\); valid: one, seven"):
        registry["sevn"]


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    with pytest.raises(ConfigError, match="twice"):
        registry.register("one")


def test_names_with_commas_are_told_apart() -> None:
    assert unknown("curve", "x", ["a, b", "c"]).endswith("valid: 'a, b', c")
