"""Random networks for the engine, each drawn from a seed as the text of a Python script.

The script builds the network, its copies with a dial and with checks, budgets and inputs. What runs here is that text,
so that printing it gives a failure that needs nothing else.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

CHANNELS = [1, 2, 3, 4, 5, 6, 8, 8, 12, 16, 17, 20, 24, 32, 33]
PRELUDE = '''\
import copy
import random
import torch
import torch.nn.functional as F
from torch import nn
import tapernet as tn
from tapernet.nn.net import at
from tapernet.nn.terminating import terminating_layers


def inner(net):
    return net.model if isinstance(net, tn.TaperedNet) else net


def settle(model, seed):
    """Norms and profiles of which no two numbers are alike, and that divide by nothing small."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        owner = model.get_submodule(name.rpartition(".")[0])
        norm = hasattr(owner, "eps")
        if not tensor.is_floating_point():
            continue
        if name.endswith(".gamma"):
            tensor.data = torch.rand(tensor.shape, generator=g).sort(descending=True).values * 0.9 + 0.1
        elif norm and ("var" in name or name.endswith("weight")):
            tensor.data = torch.rand(tensor.shape, generator=g) + 0.5
        elif norm or name.endswith("bias"):
            tensor.data = torch.rand(tensor.shape, generator=g) - 0.5
        elif ".versions." in name:
            tensor.data += torch.randn(tensor.shape, generator=g) * 0.1
    return model.eval()


'''


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Args:
        name: of the variable.
        shape: without the batch.
        runs: how its channels came together, which sums have in common.
    """

    name: str
    shape: tuple[int, ...]
    runs: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[0]


@dataclass
class Graph:
    """A network under construction: the lines of its two methods.

    Args:
        r: draws everything.
        wild: whether operations are drawn that `taper` refuses.
    """

    r: random.Random
    wild: bool
    init: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    calls: list[tuple[str, Value, Value]] = field(default_factory=list)
    """Layers, with what they read and made."""

    def layer(self, call: str) -> str:
        """A new module."""
        name = f"self.l{len(self.init)}"
        self.init.append(f"{name} = {call}")
        return name

    def emit(self, expression: str, shape: tuple[int, ...], runs: tuple[int, ...] | None = None) -> Value:
        """A new value."""
        value = Value(f"v{len(self.body)}", shape, runs or (shape[0],))
        self.body.append(f"{value.name} = {expression}")
        self.values.append(value)
        return value

    def same(self, expression: str, v: Value) -> Value:
        """A new value of another's shape."""
        return self.emit(expression, v.shape, v.runs)

    def call(self, layer: str, v: Value, shape: tuple[int, ...], runs: tuple[int, ...] | None = None) -> Value:
        """What a layer makes of a value."""
        self.calls.append((layer, v, self.emit(f"{layer}({v.name})", shape, runs)))
        return self.values[-1]

    def pick(self, dims: int) -> Value | None:
        """A value with so many dimensions beside the batch, mostly a late one."""
        found = [v for v in self.values if len(v.shape) == dims]
        return self.r.choice(found[-3:] if self.r.random() < 0.7 else found) if found else None

    def maybe(self, share: float = 0.5) -> bool:
        return self.r.random() < share


# Operations: each draws one of its kind on a value, or returns None where the value does not suit it.


def convolution(g: Graph, v: Value) -> Value | None:
    r, (c, *size) = g.r, v.shape
    kernel = [r.choice([1, 2, 3, 3, 4, 5])] * len(size) if g.maybe(0.7) else [r.choice([1, 1, 2, 3, 5]) for _ in size]
    stride = [r.choice([1, 1, 1, 2, 3])] * len(size) if g.maybe(0.8) else [r.choice([1, 2]) for _ in size]
    dilation = [r.choice([1, 1, 1, 2])] * len(size)
    padding: object = [r.randint(0, k // 2 * d) if k > 1 else 0 for k, d in zip(kernel, dilation, strict=True)]
    pads = list(padding)  # type: ignore[call-overload]
    if max(stride) == 1 and min(kernel) > 1 and g.maybe(0.2):
        padding, pads = "same", [d * (k - 1) / 2 for k, d in zip(kernel, dilation, strict=True)]
    out = [int((s + 2 * p - d * (k - 1) - 1) // t + 1)
           for s, p, d, k, t in zip(size, pads, dilation, kernel, stride, strict=True)]  # fmt: skip
    mode = r.choice(["reflect", "replicate", "circular"]) if g.maybe(0.08) else "zeros"
    if min(out) < 1 or (mode != "zeros" and any(p >= s for p, s in zip(pads, size, strict=True))):
        return None
    filters, groups, runs = r.choice(CHANNELS), 1, None
    if g.maybe(0.35):
        unit = r.choice([u for u in (1, 1, 2, 3, 4) if all(run % u == 0 for run in v.runs)])
        growth = r.choice([1, 1, 1, 2, 3])
        groups, filters = c // unit, c * growth
        runs = tuple(run * growth for run in v.runs) if groups > 1 else None
    elif g.wild and g.maybe(0.2):
        groups = r.choice([u for u in range(1, c + 1) if c % u == 0])
        filters = groups * r.randint(1, 4)
    shape = f"{tuple(kernel)}, {tuple(stride)}, {padding!r}, {tuple(dilation)}, {groups}, {g.maybe(0.8)}, {mode!r}"
    return g.call(g.layer(f"nn.Conv{len(size)}d({c}, {filters}, {shape})"), v, (filters, *out), runs)


def transposed(g: Graph, v: Value) -> Value | None:
    r, (c, h, w) = g.r, v.shape
    kernel, stride = r.randint(1, 4), r.choice([1, 2])
    padding, more = r.randint(0, kernel // 2), r.randint(0, stride - 1)
    out = [(s - 1) * stride - 2 * padding + kernel + more for s in (h, w)]
    if min(out) < 1 or max(out) > 24:
        return None
    groups = c if g.maybe(0.2) else 1
    filters = c if groups > 1 else r.choice(CHANNELS)
    arguments = f"{c}, {filters}, {kernel}, {stride}, {padding}, {more}, {groups}, {g.maybe()}"
    return g.call(g.layer(f"nn.ConvTranspose2d({arguments})"), v, (filters, *out), v.runs if groups > 1 else None)


def norm(g: Graph, v: Value) -> Value:
    r, c, dims = g.r, v.channels, len(v.shape)
    affine = g.maybe(0.8)
    kinds = [f"nn.BatchNorm{max(1, dims - 1)}d({c}, affine={affine})"] * 4
    units = [u for u in (2, 3, 4, 8) if all(run % u == 0 for run in v.runs)]
    if dims > 1:
        kinds.append(f"nn.InstanceNorm{dims - 1}d({c}, affine={affine})")
    if units:
        kinds.append(f"nn.GroupNorm({c // r.choice(units)}, {c}, affine={affine})")
    kinds += [f"nn.GroupNorm(1, {c})", f"nn.LayerNorm({[*v.shape]})" if dims > 1 else f"nn.LayerNorm({c})"]
    if g.wild:
        kinds.append(f"nn.BatchNorm{max(1, dims - 1)}d({c}, track_running_stats=False)")
    return g.call(g.layer(r.choice(kinds)), v, v.shape, v.runs)


def channels_last_norm(g: Graph, v: Value) -> Value | None:
    """As in ConvNeXt: a norm and a linear layer over the last dimension."""
    if len(v.shape) != 3:
        return None
    c, h, w = v.shape
    last = g.emit(f"{v.name}.permute(0, 2, 3, 1)", (h, w, c))
    g.values.pop()
    filters = g.r.choice([c, h, 2 * c])
    inner = g.layer(f"nn.LayerNorm({c})"), g.layer(f"nn.Linear({c}, {filters})")
    return g.emit(f"{inner[1]}({inner[0]}({last.name})).permute(0, 3, 1, 2)", (filters, h, w))


ACTIVATIONS = ["ReLU()"] * 6 + [
    "ReLU6()", "ReLU(inplace=True)", "LeakyReLU(0.1)", "GELU()", "SiLU()", "Hardswish()", "Sigmoid()", "Tanh()",
    "ELU()", "Hardtanh()", "Softplus()", "Mish()", "PReLU()", "PReLU({c})", "SiLU(inplace=True)",
]  # fmt: skip
FUNCTIONS = ["F.relu({v})"] * 4 + [
    "torch.relu({v})", "{v}.relu()", "F.relu6({v})", "F.relu({v}, inplace=True)", "F.relu_({v})", "{v}.relu_()",
    "{v}.clamp(min=0)", "torch.clamp({v}, 0, 6)", "F.leaky_relu({v}, 0.2)", "F.gelu({v})", "F.silu({v})",
    "F.hardswish({v})", "torch.sigmoid({v})", "{v}.tanh()", "{v}.sigmoid_()", "F.elu({v})",
]  # fmt: skip


def activation(g: Graph, v: Value) -> Value:
    if g.maybe():
        return g.same(f"{g.layer('nn.' + g.r.choice(ACTIVATIONS).format(c=v.channels))}({v.name})", v)
    return g.same(g.r.choice(FUNCTIONS).format(v=v.name), v)


def idle(g: Graph, v: Value) -> Value:
    spatial = ["nn.Dropout2d()"] if len(v.shape) == 3 else []
    some = [g.r.choice(["nn.Identity()", "nn.Dropout()", "nn.AlphaDropout()", "nn.Sequential()", *spatial])
            for _ in range(g.r.randint(1, 3))]  # fmt: skip
    call = f"{g.layer(some[0] if len(some) == 1 else 'nn.Sequential(' + ', '.join(some) + ')')}({{v}})"
    kinds = [call] * 4 + ["F.dropout({v}, 0.3, training=flag)", "F.dropout({v}, drop, self.training)",
                          "{v}.contiguous()", "{v}.clone()"]  # fmt: skip
    return g.same(g.r.choice(kinds).format(v=v.name), v)


def pooling(g: Graph, v: Value) -> Value | None:
    r, (c, *size) = g.r, v.shape
    n = len(size)
    if g.maybe(0.25):
        out = [r.randint(1, s + 1) for s in size] if g.maybe() else [r.choice([1, 1, 2, 3])] * n
        kind = r.choice(["Avg", "Avg", "Max"])
        arguments = repr(out[0] if n == 1 else tuple(out))
        function = f"F.adaptive_{kind.lower()}_pool{n}d({v.name}, {arguments})"
        layer = g.maybe()
        call = f"{g.layer(f'nn.Adaptive{kind}Pool{n}d({arguments})')}({v.name})" if layer else function
        return g.emit(call, (c, *out), v.runs)
    kernel, stride, ceil = r.randint(1, 4), r.choice([None, 1, 2, 3]), g.maybe(0.4)
    padding, dilation = r.randint(0, kernel // 2), 1
    average = g.maybe()
    if not average and g.maybe(0.1):
        dilation = 2
    step = stride or kernel
    out = []
    for s in size:
        room = s + 2 * padding - dilation * (kernel - 1) - 1
        count = (-(-room // step) if ceil else room // step) + 1
        out.append(count - 1 if ceil and (count - 1) * step >= s + padding else count)
    if min(out) < 1 or min(size) + 2 * padding < dilation * (kernel - 1) + 1:
        return None
    if average:
        divisor = f", divisor_override={r.randint(1, 7)}" if n == 2 and g.maybe(0.3) else ""
        named = f"{kernel}, {stride}, {padding}, ceil_mode={ceil}, count_include_pad={g.maybe()}{divisor}"
    else:
        named = f"{kernel}, {stride}, {padding}, {dilation}, ceil_mode={ceil}"
    name = "avg" if average else "max"
    if g.maybe():
        call = f"{g.layer(f'nn.{name.capitalize()}Pool{n}d({named})')}({v.name})"
    else:
        call = f"F.{name}_pool{n}d({v.name}, {named})"
    return g.emit(call, (c, *out), v.runs)


def concatenation(g: Graph, v: Value) -> Value | None:
    r = g.r
    fitting = [u for u in g.values if u.shape[1:] == v.shape[1:]]
    parts = [v, *(r.choice(fitting) for _ in range(r.randint(1, 3)))]
    r.shuffle(parts)
    if sum(p.channels for p in parts) > 80:
        return None
    names = ", ".join(p.name for p in parts)
    dim = 1 if g.maybe(0.8) else -len(v.shape)
    call = r.choice([f"torch.cat([{names}], {dim})", f"torch.cat(({names}), dim={dim})",
                     f"torch.concat(tensors=[{names}], dim={dim})"])  # fmt: skip
    return g.emit(call, (sum(p.channels for p in parts), *v.shape[1:]), tuple(run for p in parts for run in p.runs))


def along_rows(g: Graph, v: Value) -> Value | None:
    others = [u for u in g.values if u.runs == v.runs and len(u.shape) == 3 and u.shape[2:] == v.shape[2:]]
    if len(v.shape) != 3:
        return None
    u = g.r.choice(others)
    return g.emit(f"torch.cat([{v.name}, {u.name}], 2)", (v.channels, v.shape[1] + u.shape[1], v.shape[2]), v.runs)


SUMS = ["{a} + {b}"] * 5 + [
    "torch.add({a}, {b})", "{a}.add({b})", "{a} - {b}", "torch.add({a}, {b}, alpha=0.5)", "{a} * {b}",
    "{a} + {b} + {a}", "torch.maximum({a}, {b})", "sum([{a}, {b}])",
]  # fmt: skip
CHANGES = ["{a} += {b}", "{a}.add_({b})", "{a} *= 0.5", "{a}.mul_({b})", "F.relu_({a})", "{a}[:, :, :1].mul_(2)"]


def combination(g: Graph, v: Value) -> Value:
    """Two values number by number."""
    partners = [u for u in g.values if u.shape == v.shape and u.runs == v.runs]
    u = g.r.choice(partners)
    return g.same(g.r.choice(SUMS).format(a=v.name, b=u.name), v)


def change(g: Graph, v: Value) -> None:
    """A value in place, which others may read again, also under another name."""
    u = g.r.choice([u for u in g.values if u.shape == v.shape and u.runs == v.runs])
    g.body.append(g.r.choice(CHANGES if len(v.shape) > 1 else CHANGES[:-1]).format(a=v.name, b=u.name))


def arithmetic(g: Graph, v: Value) -> Value:
    kinds = ["{v} * 0.5", "{v} + 1", "2 - {v}", "{v} / 2", "-{v}", "{v}.abs()", "{v} * {v}", "{v} * factor",
             "{v} if mask is None else {v} * mask", "({v} > 0) * {v}"]  # fmt: skip
    return g.same(g.r.choice(kinds).format(v=v.name), v)


def parameter(g: Graph, v: Value) -> Value:
    """A parameter of the network's own, which stands for every image."""
    c, *size = v.shape
    shapes = [(1, c, *[1] * len(size)), (c, *[1] * len(size)), (1, c, *size), (1, 1, *size), (1,)]
    made = g.layer(f"nn.Parameter(torch.randn{g.r.choice(shapes)})")
    kinds = ["{v} + {p}", "{v} * {p}", "torch.add({v}, {p})", "{p} + {v}"]
    return g.same(g.r.choice(kinds).format(v=v.name, p=made), v)


def excitation(g: Graph, v: Value) -> Value | None:
    """Squeeze and excitation: a factor for every channel."""
    if len(v.shape) != 3:
        return None
    c, r, inner = v.channels, g.r, g.r.choice([1, 2, 4, 8])
    gate = r.choice(["nn.Sigmoid()", "nn.Hardsigmoid()"])
    if g.maybe():
        a, b = g.layer(f"nn.Conv2d({c}, {inner}, 1)"), g.layer(f"nn.Conv2d({inner}, {c}, 1)")
        s = g.emit(f"{b}(F.relu({a}(F.adaptive_avg_pool2d({v.name}, 1))))", (c, 1, 1))
    else:
        a, b = g.layer(f"nn.Linear({c}, {inner})"), g.layer(f"nn.Linear({inner}, {c})")
        f = g.emit(f"{b}(F.relu({a}({v.name}.mean((2, 3)))))", (c,))
        view = r.choice([".view({v}.size(0), -1, 1, 1)", "[:, :, None, None]", ".unsqueeze(2).unsqueeze(3)"])
        s = g.emit(f.name + view.format(v=v.name), (c, 1, 1))
    gate = g.layer(gate)
    return g.emit(r.choice([f"{v.name} * {gate}({s.name})", f"{gate}({s.name}) * {v.name}"]), v.shape,
                  v.runs if len(v.runs) == 1 else (c,))  # fmt: skip


def resized(g: Graph, v: Value) -> Value | None:
    if len(v.shape) != 3:
        return None
    c, h, w = v.shape
    kinds = [
        ("F.pad({v}, (1, 0, 2, 1))", (h + 3, w + 1)), ("{up}({v})", (2 * h, 2 * w)),
        ("F.interpolate({v}, scale_factor=2)", (2 * h, 2 * w)), ("{zero}({v})", (h + 2, w + 2)),
        ("F.interpolate({v}, size=(4, 5), mode='bilinear')", (4, 5)),
        ("{v}.mean((2, 3), keepdim=True)", (1, 1)), ("{v}.mean([-1, -2], True)", (1, 1)),
        ("{v}[:, :, ::2, 1:]" if w > 1 else "{v}[:, :, ::2]", (-(-h // 2), max(1, w - 1) if w > 1 else w)),
        ("F.avg_pool2d({v}, {v}.shape[2:])", (1, 1)),
    ]  # fmt: skip
    call, size = g.r.choice(kinds)
    up = g.layer(f"nn.Upsample(scale_factor=2, mode={g.r.choice(['nearest', 'bilinear'])!r})") if "{up}" in call else ""
    zero = g.layer("nn.ZeroPad2d(1)") if "{zero}" in call else ""
    return g.emit(call.format(v=v.name, up=up, zero=zero), (c, *size), v.runs) if max(size) <= 24 else None


def odd(g: Graph, v: Value) -> Value | None:
    """Operations that move channels, which `taper` refuses."""
    c, name = v.channels, v.name
    if not g.wild or len(v.shape) != 3 or c < 2 or c % 2:
        return None
    h, w = v.shape[1:]
    kinds = [
        (f"torch.cat({name}.chunk(2, 1), 1)", (c, h, w)), (f"torch.cat({name}.split({c // 2}, 1)[::-1], 1)", (c, h, w)),
        (f"{name}.chunk(2, 1)[1]", (c // 2, h, w)), (f"{name}[:, {c // 2}:]", (c // 2, h, w)),
        (f"{name}.view({name}.size(0), 2, -1, {h}, {w}).transpose(1, 2).reshape({name}.shape)", (c, h, w)),
        (f"{name}.flip(1)", (c, h, w)), (f"F.pixel_shuffle(torch.cat([{name}, {name}], 1), 2)", (c // 2, 2 * h, 2 * w)),
        (f"torch.cat([{name}[:, :1], {name}], 1)", (c + 1, h, w)), (f"{name}.transpose(2, 3)", (c, w, h)),
        (f"{name}.reshape(-1, {c // 2}, {h}, {w}).relu().reshape(-1, {c}, {h}, {w})", (c, h, w)),
        (f"torch.stack([{name}, {name}], 1).mean(1)", (c, h, w)), (f"torch.softmax({name}, 1)", (c, h, w)),
    ]  # fmt: skip
    call, shape = g.r.choice(kinds)
    return g.emit(call, shape)


def folded(g: Graph, v: Value) -> Value | None:
    """Part of each image as an image of its own, through a convolution: another batch beside that of the others."""
    if not g.wild or len(v.shape) != 3 or v.channels % 2:
        return None
    c, h, w = v.shape
    conv = g.layer(f"nn.Conv2d({c // 2}, {c // 2}, 3, padding=1)")
    return g.emit(f"{conv}({v.name}.reshape(-1, {c // 2}, {h}, {w})).relu().reshape(-1, {c}, {h}, {w})", v.shape)


def again(g: Graph, v: Value) -> Value | None:
    """A layer that was called before, on another value."""
    fitting = [(call, result) for call, read, result in g.calls if (read.shape, read.runs) == (v.shape, v.runs)]
    if not fitting:
        return None
    call, result = g.r.choice(fitting)
    return g.emit(f"{call}({v.name})", result.shape, result.runs)


def flattened(g: Graph, v: Value) -> Value | None:
    """Features of an image."""
    c, *size = v.shape
    width = c
    for s in size:
        width *= s
    runs = tuple(run * (width // c) for run in v.runs)
    dims = tuple(range(2, 2 + len(size)))
    kinds: list[tuple[str, int, tuple[int, ...]]] = [
        (f"{{v}}.mean({dims})", c, v.runs), ("{v}.flatten(1)", width, runs), ("torch.flatten({v}, 1)", width, runs),
        ("{v}.view({v}.size(0), -1)", width, runs), ("{v}.reshape({v}.shape[0], -1)", width, runs),
        (g.layer("nn.Flatten()") + "({v})", width, runs), (f"{{v}}.amax({dims})", c, v.runs),
        (f"F.adaptive_avg_pool{len(size)}d({{v}}, 1).flatten(1)", c, v.runs),
        (f"{{v}}.mean({[-1 - i for i in range(len(size))]})", c, v.runs),
    ]  # fmt: skip
    if g.wild and len(size) == 2:
        kinds += [("{v}.permute(0, 2, 3, 1).flatten(1)", width, (width,)), (f"{{v}}.view(-1, {width})", width, runs)]
    call, features, runs = g.r.choice(kinds)
    return g.emit(call.format(v=v.name), (features,), runs) if features <= 1500 else None


def linear(g: Graph, v: Value) -> Value | None:
    if len(v.shape) != 1:
        return None
    features = g.r.choice(CHANNELS)
    return g.call(g.layer(f"nn.Linear({v.channels}, {features}, {g.maybe(0.8)})"), v, (features,))


def sequence(g: Graph, v: Value) -> Value | None:
    """Rows and columns as one dimension."""
    return g.emit(f"{v.name}.flatten(2)", (v.channels, v.shape[1] * v.shape[2]), v.runs) if len(v.shape) == 3 else None


def block(g: Graph, v: Value) -> Value | None:
    """Convolution, norm, activation: what the engine takes for one operation."""
    found = convolution(g, v)
    for operation in (idle, norm, idle, activation):
        if found is not None and (operation is not idle or g.maybe(0.1)):
            found = operation(g, found)
    return found


Operation = Callable[[Graph, Value], object]
OF_IMAGES: dict[Operation, int] = {
    convolution: 8, block: 10, transposed: 2, norm: 4, activation: 6, idle: 3, pooling: 5, concatenation: 7,
    combination: 5, arithmetic: 2, parameter: 2, excitation: 2, resized: 2, odd: 3, folded: 1, change: 1, again: 2,
    channels_last_norm: 1, along_rows: 1, sequence: 1, flattened: 1,
}  # fmt: skip
OF_SEQUENCES: dict[Operation, int] = {
    convolution: 4, norm: 3, activation: 3, pooling: 2, concatenation: 2, combination: 2, idle: 1, flattened: 3,
}  # fmt: skip
OF_FEATURES: dict[Operation, int] = {
    linear: 6, norm: 3, activation: 4, concatenation: 4, combination: 3, idle: 2, arithmetic: 1, parameter: 1,
    change: 1,
}  # fmt: skip


def draw(seed: int, most: int = 1000) -> tuple[str, tuple[int, ...], bool]:
    """The class `Net`, the shape of one input, and whether it is wild; of its operations, `most` at most."""
    r = random.Random(seed)
    g = Graph(r, wild=r.random() < 0.2)
    shape = (r.choice([1, 2, 3, 3, 4, 16, 18]), r.randint(4, 13), r.randint(4, 13))
    if g.maybe(0.05):
        shape = shape[:1]
    g.values.append(Value("x", shape, shape[:1]))
    for step in range(min(r.randint(3, 16), most)):
        if step == 0 and g.maybe(0.8):
            (block if len(shape) == 3 else linear)(g, g.values[0])
            continue
        v = g.pick(r.choice([3, 3, 3, 3, 3, 2, 1]) if len(shape) == 3 else 1)
        if v is not None:
            table = {3: OF_IMAGES, 2: OF_SEQUENCES, 1: OF_FEATURES}[len(v.shape)]
            r.choices(list(table), list(table.values()))[0](g, v)
    finish(g)
    return text(g), shape, g.wild


def finish(g: Graph) -> None:
    """Ends in scores of all that was left unread, mostly; otherwise in whatever is last."""
    if g.maybe(0.15):
        if len(g.values[-1].shape) == 3 and g.maybe():
            convolution(g, g.values[-1])
        return
    loose = [v for v in g.values if not re.search(rf"\b{v.name}\b", "\n".join(g.body).replace(f"{v.name} = ", ""))]
    parts = [v if len(v.shape) == 1 else flattened(g, v) or g.emit(f"{v.name}.flatten(2).mean(2)", v.shape[:1], v.runs)
             for v in loose[-4:] or g.values[-1:]]  # fmt: skip
    v = parts[0]
    if len(parts) > 1:
        v = g.emit(f"torch.cat([{', '.join(p.name for p in parts)}], 1)", (sum(p.channels for p in parts),),
                   tuple(run for p in parts for run in p.runs))  # fmt: skip
    if g.maybe(0.2):
        v = norm(g, v)
    linear(g, v)


def text(g: Graph) -> str:
    """The class, without what its output does not depend on."""
    last = g.values[-1].name
    body, used = [f"return {last}"], {last}
    for line in reversed(g.body):
        names = set(re.findall(r"\b(?:v\d+|x)\b", line))
        assigned = re.match(r"(v\d+) = ", line)
        if (assigned[1] in used) if assigned else names & used:
            body.append(line)
            used |= names
    body.reverse()
    init = [line for line in g.init if re.search(rf"{line.split(' ')[0]}\b", "\n".join(body))]
    return "\n".join(
        ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        + [f"        {line}" for line in init]
        + ["", "    def forward(self, x, mask=None, factor=0.5, drop=0.2, *, flag=False):"]
        + [f"        {line}" for line in body]
        + ["", ""]
    )
