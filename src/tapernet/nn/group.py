"""Channels that are kept or dropped together, and the layout of the channels that a layer reads or writes."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from tapernet.budget import kept_count
from tapernet.profile import TRAINABLE, ProfileSpec, coefficients


class ChannelGroup(nn.Module):
    """N channels that one number, `kept`, cuts to a prefix; and the profile that weighs them.

    Args:
        name: the path of the module that produces the channels.
        size: N.
        profiles: one profile, or with multiple-profile IDP one for each range of budgets.
        ranges: the upper percent of each profile's range, increasing, the last 100.
        multiple: round kept counts up to a multiple of this.
        layers: paths of every layer whose outputs these channels are; `name` alone if left out.
    """

    gammas: Tensor

    def __init__(
        self,
        name: str,
        size: int,
        profiles: Sequence[ProfileSpec],
        ranges: Sequence[int] = (100,),
        multiple: int = 1,
        *,
        layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name, self.size, self.multiple, self.ranges = name, size, multiple, tuple(ranges)
        self.layers = tuple(layers) or (name,)
        self.trainable = list(profiles) == [TRAINABLE]
        gammas = torch.stack([coefficients(p, size) for p in profiles])
        if self.trainable:
            self.gamma = nn.Parameter(gammas[0])
        else:
            self.register_buffer("gammas", gammas)
        self.flat = not self.trainable and bool((gammas == 1).all())
        self.kept, self.active = size, len(self.ranges) - 1

    def set_percent(self, percent: int) -> None:
        """Keeps this share of the channels, and takes the profile whose range holds it."""
        # Past nn.Module's own setter, whose checks for parameters cost more here than the rest of a turn of the dial.
        self.__dict__["kept"] = kept_count(self.size, percent, self.multiple)
        self.__dict__["active"] = bisect_left(self.ranges, percent)

    def profile(self) -> Tensor | None:
        """Coefficients of the kept channels, shape (kept,); None where all are 1."""
        if self.flat:
            return None
        gamma: Tensor = self.gamma if self.trainable else self.gammas[self.active]
        return gamma.narrow(0, 0, self.kept)

    def extra_repr(self) -> str:
        """Name, size and what is kept now."""
        return f"{self.name}, {self.kept} of {self.size}"


@dataclass(frozen=True)
class Span:
    """A run of channels in a layer's input or output.

    Args:
        size: channels of the uncut group.
        group: what cuts them; None if they are never cut.
        repeat: features per channel, as after flattening (N, C, H, W): H * W.
    """

    size: int
    group: ChannelGroup | None = None
    repeat: int = 1

    @property
    def full(self) -> int:
        """Features when nothing is cut."""
        return self.size * self.repeat

    @property
    def kept(self) -> int:
        """Features at the budget of the moment."""
        return (self.size if self.group is None else self.group.kept) * self.repeat

    def profile(self) -> Tensor | None:
        """Coefficient of each kept feature, or None where all are 1."""
        gamma = None if self.group is None else self.group.profile()
        return gamma if gamma is None or self.repeat == 1 else gamma.repeat_interleave(self.repeat)


@dataclass(frozen=True)
class Layout:
    """The channels of a tensor in order: one span, or several after a concatenation."""

    spans: tuple[Span, ...]

    @property
    def full(self) -> int:
        """Features when nothing is cut."""
        return sum(s.full for s in self.spans)

    @property
    def kept(self) -> int:
        """Features at the budget of the moment."""
        return sum(s.kept for s in self.spans)

    def kept_at(self, percent: int) -> int:
        """Features at a budget that is the same for all layers."""
        return sum(
            s.full if s.group is None else kept_count(s.size, percent, s.group.multiple) * s.repeat for s in self.spans
        )

    @property
    def is_prefix(self) -> bool:
        """Whether the kept features are the first ones (not so after a concatenation)."""
        return len(self.spans) == 1

    def select(self, tensor: Tensor, dim: int) -> Tensor:
        """The kept features of `tensor` along `dim`: a view for a prefix, a copy for several spans."""
        if len(self.spans) == 1:  # almost always, and a part of every step: no detours
            kept = self.spans[0].kept
            return tensor if tensor.shape[dim] == kept else tensor.narrow(dim, 0, kept)
        if tensor.shape[dim] == self.kept:
            return tensor
        return torch.cat([tensor.narrow(dim, start, span.kept) for start, span in self._starts()], dim)

    def index(self) -> slice | Tensor:
        """What `select` selects: a slice for a prefix, the positions for several spans."""
        if self.is_prefix:
            return slice(self.kept)
        return torch.cat([torch.arange(start, start + span.kept) for start, span in self._starts()])

    def _starts(self) -> list[tuple[int, Span]]:
        """Each span with the position of its first feature in the uncut tensor."""
        return list(zip(accumulate((s.full for s in self.spans), initial=0), self.spans, strict=False))

    def profile(self) -> Tensor | None:
        """Coefficient of each kept feature, shape (kept,); None where all are 1."""
        if len(self.spans) == 1:
            return self.spans[0].profile()
        profiles = [s.profile() for s in self.spans]
        if all(p is None for p in profiles):
            return None
        like = next(p for p in profiles if p is not None)
        ones = [like.new_ones(s.kept) if p is None else p for p, s in zip(profiles, self.spans, strict=True)]
        return ones[0] if self.is_prefix else torch.cat(ones)
