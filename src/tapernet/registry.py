"""A table from names to things, whose one error lists the names that exist."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from tapernet.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind, filled by a decorator.

    Args:
        kind: what the things are, for error messages ("profile", "network").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a thing under `name`; raises ConfigError if the name is taken."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice")

        def enter(thing: T) -> T:
            self._entries[name] = thing
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(unknown(self.kind, name, self._entries)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


def unknown(kind: str, name: object, valid: object) -> str:
    """The message for a name that does not exist: the nearest one, then all of them."""
    names = sorted(str(v) for v in valid)  # type: ignore[attr-defined]
    near = get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    listed = ", ".join(repr(n) if "," in n else n for n in names)
    return f"unknown {kind} {name!r}{hint}; valid: {listed or 'none'}"
