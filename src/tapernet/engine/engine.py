"""`Engine`: a compiled network with its dial."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch
from torch import Tensor

from tapernet.engine.dial import Dial, Setting
from tapernet.engine.program import Program
from tapernet.errors import ConfigError
from tapernet.nn.net import Budget


class Engine:
    """A network compiled by `tapernet.compile`, in eval mode and without gradients.

    It is a copy: training or changing the network afterwards does not reach it. Several threads may call one engine at
    once, also with different budgets.

    Attributes:
        choices: of each layer that may stop early, "dense" or "terminating"; plain strings, to be given to `compile`
            again.
        threads: how many a call may use.
        kernels: the instruction set, or "torch" where the network runs through torch alone.

    Example:
        >>> import torch, tapernet as tn
        >>> engine = tn.compile(tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28)))
        >>> engine.budget = 0.3
        >>> engine(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        program: Program,
        dial: Dial,
        input_shape: tuple[int, ...],
        *,
        kernels: str,
        threads: int,
        choices: Mapping[str, str],
    ) -> None:
        self.choices, self.kernels = dict(choices), kernels
        self.threads = threads
        self._program, self._dial, self._input_shape = program, dial, input_shape
        self._settings: dict[Any, Setting] = {}
        self._lock = threading.Lock()
        self._budget: Budget = 1.0
        self._setting: Setting | None = None
        for percent in range(1, 101):  # so that turning the dial is a look-up from now on
            with suppress(ConfigError):  # without batch-norm statistics, or without a dial
                self._setting_of(percent / 100)

    @property
    def threads(self) -> int:
        """How many threads a call may use; a batch is divided among them."""
        return self._threads

    @threads.setter
    def threads(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"threads is a whole number from 1, not {count!r}")
        self._threads = count

    @property
    def budget(self) -> Budget:
        """The budget of calls that do not name one: all that `TaperedNet.budget` takes."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._setting = self._setting_of(budget)
        self._budget = budget

    @contextmanager
    def at(self, budget: Budget) -> Iterator["Engine"]:
        """Runs the block at `budget`, then goes back to the budget before it; raises ConfigError for a bad one."""
        before, setting = self._budget, self._setting
        self.budget = budget
        try:
            yield self
        finally:
            self._budget, self._setting = before, setting

    def __call__(self, x: Tensor, *, budget: Budget | None = None) -> Tensor:
        """The network's output for a batch.

        Args:
            x: float32 on the CPU, shape (n, *input shape); n may be 0. Height and width may differ from the example's
                where the network allows it.
            budget: for this call alone.

        Raises:
            ConfigError: another type, shape or device; a bad budget.
        """
        if budget is not None:
            setting, budget_now = self._setting_of(budget), budget
        else:
            budget_now = self._budget
            setting = self._setting or self._setting_of(budget_now)
        self._check(x)
        if not self._program.turns_layers:
            return self._program.run(setting, x, self._threads)
        with self._lock, torch.inference_mode():  # the layers that torch runs have one budget at a time
            self._dial.turn(budget_now)
            return self._program.run(setting, x.detach(), self._threads)

    def prepare(self, budget: Budget, size: tuple[int, int] | None = None) -> None:
        """Makes the plan of a budget now instead of at its first call.

        Args:
            budget: a budget of the network.
            size: height and width of the images; the example's if left out.
        """
        shape = self._input_shape if size is None else (self._input_shape[0], *size)
        self(torch.zeros(1, *shape), budget=budget)

    def times(self, x: Tensor, budget: Budget) -> dict[str, float]:
        """Seconds of each native operation on a batch, on one thread."""
        setting = self._setting_of(budget)
        self._check(x)
        with self._lock, torch.inference_mode():
            self._dial.turn(budget)
            return self._program.times(setting, x)

    @property
    def weight_bytes(self) -> int:
        """Memory of the packed weights, which all budgets share."""
        return sum(step.network.bytes() for step in self._program.native)

    @property
    def plan_bytes(self) -> int:
        """Memory that the budgets used so far add: their scales and shifts, and the taps before their checks."""
        return sum(step.plan_bytes() for step in self._program.native)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an engine cannot be copied or pickled, as its weights are packed for this processor: copy or "
                        "save the network, and compile that")  # fmt: skip

    def summary(self) -> Any:
        """Every operation with what computes it, as a rich table."""
        from rich.table import Table

        table = Table(title=f"kernels: {self.kernels}, threads: {self.threads}")
        for heading in ("operation", "kernel", "with"):
            table.add_column(heading)
        for row in self._program.rows:
            table.add_row(row.name, row.kernel, ", ".join(row.takes_in))
        return table

    def operations(self) -> dict[str, str]:
        """The kernel of every operation by name; "torch: ..." with the reason for one that the kernels lack."""
        return {row.name: row.kernel for row in self._program.rows}

    def _setting_of(self, budget: Budget) -> Setting:
        known = isinstance(budget, (float, str))
        if known and (setting := self._settings.get(budget)) is not None:
            return setting
        with self._lock:
            setting = self._dial.turn(budget)
        if known:
            self._settings[budget] = setting
        return setting

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise ConfigError(f"the engine takes a torch tensor, not {type(x).__name__}")
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.layout != torch.strided:
            raise ConfigError(
                f"the engine takes dense float32 tensors on the CPU, not {x.dtype} on {x.device} ({x.layout})"
            )
        wanted = self._input_shape
        if x.dim() != len(wanted) + 1 or x.shape[1] != wanted[0]:
            raise ConfigError(
                f"the network takes batches of shape (n, {', '.join(map(str, wanted))}), not {tuple(x.shape)}"
            )
