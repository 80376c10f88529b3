"""`compile`: from a network to an engine."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from tapernet.engine.choose import choose
from tapernet.engine.dial import Dial, running_norms
from tapernet.engine.engine import Engine
from tapernet.engine.lower import lower
from tapernet.engine.native import choose_kernels, extension, warn_once
from tapernet.engine.program import Program
from tapernet.engine.steps import ByTorch, Lowered, Row
from tapernet.engine.tracing import trace_with_shapes
from tapernet.engine.values import Groups
from tapernet.errors import ConfigError
from tapernet.nn.net import Budget, TaperedNet, at
from tapernet.nn.terminating import DENSE, TERMINATING, TerminatingConv2d, terminating_layers
from tapernet.registry import unknown
from tapernet.saving import known_shape


def compile(
    net: nn.Module,
    example: Tensor | None = None,
    *,
    calibration: Tensor | None = None,
    choices: Mapping[str, str] | None = None,
    budgets: Iterable[Budget] = (),
    threads: int = 1,
    kernels: str = "auto",
) -> Engine:
    """A network as an `Engine`: native kernels on one buffer of weights, which every budget reads in place.

    Convolutions, linear layers, poolings, batch-norm, ReLU, sums and concatenations have kernels; a layer without one
    is run by torch, as is the whole network where it cannot be traced, where it changes in place what it reads again,
    or where the kernels were not built. `Engine.summary` tells.

    A layer of a network from `tapernet.terminate` that has checks either stops early, as the network does, or computes
    everything, which is sometimes faster and never less accurate before the checks were trained for. What decides, the
    first that says something about a layer: `choices`; with `calibration`, the times of both ways. All other layers
    stop, but for those whose check is of a sum in bytes (`Check(bits=8)`) where the processor does not multiply bytes.

    Args:
        net: a `TaperedNet`, a terminated network, or any module in float32 on the CPU. Not changed; copied.
        example: one batch of inputs, shape (n, channels, height, width) or (n, features), n > 0; networks from
            `taper`, `terminate` and the zoo know their own.
        calibration: images, shape as the example, on which layers that may stop early are timed.
        choices: for some layers or all, in place of timing; an engine's `choices`.
        budgets: that calls will use; their plans are made now. The timing is over these, or 1.0.
        threads: that a call may use.
        kernels: instruction set; "auto" takes the best that the processor has, or that the environment variable
            TAPERNET_KERNELS caps at.

    Raises:
        ConfigError: no example, or one that the network does not run on; another type or device than float32 on the
            CPU; an unknown instruction set, budget or choice.

    Warns:
        RuntimeWarning: once, if the kernels were not built.
    """
    example = _example(net, example)
    _check(net)
    inner: nn.Module = net.model if isinstance(net, TaperedNet) else net
    if extension() is None:
        warn_once()
        graph: fx.GraphModule | str = "the kernels were not built"
    else:
        kernels = choose_kernels(kernels)
        with at(net, 1.0):
            graph = trace_with_shapes(inner, example)
    running = "torch" if isinstance(graph, str) else kernels
    stopping = {path: layer for path, layer in terminating_layers(inner).items() if layer.checks}
    wanted = _choices(choices or {}, stopping)
    budgets = list(budgets)

    def build(chosen: Mapping[str, str]) -> Engine:
        made = {path: chosen.get(path, _usual(layer, kernels)) for path, layer in stopping.items()}
        lowered = _whole(inner, str(graph)) if isinstance(graph, str) else _lowered(graph, net, kernels, made)
        by_torch = [str(s.node.target) for s in lowered.steps if isinstance(s, ByTorch) and s.node.op == "call_module"]
        dial = Dial(net, by_torch)
        _take_checks(dial, made)
        program = Program(lowered, dial, _attributes(lowered, inner))
        name = running if program.native else "torch"
        shape = tuple(example.shape[1:])
        engine = Engine(program, dial, shape, kernels=name, threads=threads, choices=made)
        for budget in budgets:
            engine.prepare(budget)
        return engine

    left = {path: layer for path, layer in stopping.items() if path not in wanted}
    if calibration is not None and not isinstance(graph, str):
        return build(wanted | choose(build, list(left), calibration, budgets or [1.0], wanted))
    return build(wanted)


def _lowered(graph: fx.GraphModule, net: nn.Module, kernels: str, choices: Mapping[str, str]) -> Lowered:
    groups = net.channel_groups if isinstance(net, TaperedNet) else ()
    ranges = len(net.ranges) if isinstance(net, TaperedNet) else 1
    return lower(graph, Groups(groups, graph), running_norms(net), ranges, kernels, choices)


def _whole(model: nn.Module, reason: str) -> Lowered:
    """All of the model as one step of torch's."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    call = graph.create_node("call_module", "", (x,))
    return Lowered([ByTorch(call)], [Row(type(model).__name__, f"torch: {reason}")], call, x)


def _take_checks(dial: Dial, choices: Mapping[str, str]) -> None:
    """Removes the checks of layers that torch runs and that are to compute everything."""
    for path, module in dial.layers.items():
        for inner, layer in terminating_layers(module).items():
            if choices.get(".".join(filter(None, (path, inner)))) == DENSE:
                layer.set_checks([])


def _attributes(lowered: Lowered, model: nn.Module) -> dict[str, Any]:
    """Copies of the tensors that torch's steps read by name."""
    names = [str(s.node.target) for s in lowered.steps if isinstance(s, ByTorch) and s.node.op == "get_attr"]
    found = {}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        found[name] = copy.deepcopy(getattr(model.get_submodule(owner), attribute))
    return found


def _usual(layer: TerminatingConv2d, kernels: str) -> str:
    """How a layer runs that nothing was said of: it stops, unless its sums in bytes would cost more than exact ones."""
    slow = layer.rounds and extension() and not extension().multiplies_bytes(kernels)
    return DENSE if slow else TERMINATING


def _choices(choices: Mapping[str, str], stopping: Iterable[str]) -> dict[str, str]:
    for path, choice in choices.items():
        if path not in stopping:
            raise ConfigError(unknown("layer with checks", path, stopping))
        if choice not in (DENSE, TERMINATING):
            raise ConfigError(unknown("choice", choice, (DENSE, TERMINATING)))
    return dict(choices)


def _example(net: nn.Module, example: Tensor | None) -> Tensor:
    """Two images, so that batch-norm and reshapes see the batch as such."""
    if example is None:
        shape = known_shape(net)
        if shape is None:
            raise ConfigError(f"{type(net).__name__} does not tell the shape of its inputs: give an example")
        return torch.zeros(2, *shape)
    if not isinstance(example, Tensor) or example.dim() < 2 or len(example) == 0:
        raise ConfigError("the example is a batch of at least one input")
    return example if len(example) > 1 else torch.cat([example, example])


def _check(net: nn.Module) -> None:
    for path, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point() and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            raise ConfigError(
                f"the engine computes in float32 on the CPU, and {path} is {tensor.dtype} on {tensor.device}: "
                f"convert the network first, net.float().cpu()"
            )
