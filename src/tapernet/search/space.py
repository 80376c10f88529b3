"""The widths that a search may choose, and the moves between them."""

import random
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from tapernet.budget import kept_count
from tapernet.nn.net import TaperedNet
from tapernet.nn.widths import Kept
from tapernet.search.cost import Cost

Choice = tuple[int, ...]
"""For each channel group, the position of its width among its options, narrowest first."""


class Space:
    """All choices of a width for each channel group whose cost is within a limit.

    Args:
        net: the network.
        percents: that a group may have; of those that keep as many channels, one counts.
        cost: of a choice.
        limit: that no choice exceeds.
    """

    def __init__(self, net: TaperedNet, percents: Sequence[int], cost: Cost, limit: float) -> None:
        self.cost, self.limit, self.groups = cost, limit, net.channel_groups
        # By kept count, so that what cannot be told apart is tried once.
        self.options = [
            list({kept_count(g.size, p, g.multiple): p for p in sorted(percents, reverse=True)}.items())[::-1]
            for g in self.groups
        ]

    def kept(self, choice: Choice) -> Kept:
        """Kept channels of each group."""
        return [options[i][0] for options, i in zip(self.options, choice, strict=True)]

    def percents(self, choice: Choice) -> list[int]:
        """The percent of each group."""
        return [options[i][1] for options, i in zip(self.options, choice, strict=True)]

    def even(self, percent: int) -> Choice:
        """The choice with this percent of every group, which must be one of those given."""
        kept = [kept_count(g.size, percent, g.multiple) for g in self.groups]
        return tuple([k for k, _ in options].index(one) for options, one in zip(self.options, kept, strict=True))

    def allows(self, choice: Choice) -> bool:
        """Whether the choice is within the limit."""
        return self.cost(self.kept(choice)) <= self.limit

    def all(self, most: int) -> list[Choice] | None:
        """Every choice within the limit; None if there are more than `most`, or too many to look through."""
        if prod(len(options) for options in self.options) > 100 * most:
            return None
        choices = product(*(range(len(options)) for options in self.options))
        found = [choice for choice in choices if self.allows(choice)]
        return found if len(found) <= most else None

    def moved(self, choice: Choice, rng: random.Random) -> Choice:
        """A choice near this one: channels are taken from some groups, and given to others as far as the limit allows.

        One time in four the room that is left is not filled up, because the best choice need not use all of it.
        """
        new = list(choice)
        groups = list(range(len(new)))
        taken = rng.sample(groups, rng.choice([1, 1, min(2, len(groups))]))
        for group in taken:
            new[group] = max(0, new[group] - rng.randint(1, 3))
        others = [g for g in groups if g not in taken]
        for group in _turns(others, rng, steps=rng.randint(1, 4)):
            self._widen(new, group)
        if rng.random() < 0.75:
            # Every group is tried until none can take a channel more.
            while any(self._widen(new, group) for group in rng.sample(groups, len(groups))):
                pass
        return tuple(new)

    def _widen(self, choice: list[int], group: int) -> bool:
        """Gives a group its next width if the limit allows it."""
        if choice[group] + 1 == len(self.options[group]):
            return False
        choice[group] += 1
        if self.allows(tuple(choice)):
            return True
        choice[group] -= 1
        return False


def _turns(groups: Sequence[int], rng: random.Random, steps: int) -> Iterator[int]:
    return (rng.choice(groups) for _ in range(steps if groups else 0))
