"""Counts the operations of a network while it runs. Contains no code for single systems.

The meter counts the products (convolutions, matrix products, attention) inside the metered
module. It observes the operators that PyTorch dispatches, so it also sees functional calls and
composite calls (``einsum``, ``matmul``). The nearest enclosing module with an
attribute ``reads`` (:func:`sddpm.layers.declare`) decides how a product counts:

- ``reads="real"``: multiply-accumulates (MAC), dense, as the literature counts them. A
  convolution costs output elements * input channels / groups * kernel size (a transposed one
  input elements * output channels / groups * kernel size): taps on zero padding included.
- ``reads="spikes"``: accumulates (AC), exact. The input must hold zero and plus or minus one
  constant per channel. A convolution costs, for each nonzero input element, the kernel taps
  that land inside the output, times output channels / groups; a linear layer costs nonzeros *
  output features. In a matrix product the left operand is the input.
- ``reads="counts"``: accumulates, exact. The input must hold whole numbers from 0: events of an
  integer neuron, each of which costs what a spike costs.

Not counted: biases, elementwise operators, normalisation, pooling, the neurons' own updates,
and a solver's arithmetic between two evaluations (:func:`sddpm.layers.solver_arithmetic`).
A product that no module declares, a product without a rule, and an operator from outside
PyTorch that is not part of a neuron are errors; there is no lenient mode.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from bench.energy.counts import Counts as Counts
from bench.energy.counts import LayerCounts as LayerCounts
from bench.energy.counts import LayerTraffic, NeuronTraffic
from bench.energy.products import (
    KNOWN_NAMESPACES,
    RULES,
    Product,
    accumulates,
    events,
    looks_like_product,
    nonzeros,
)
from sddpm.layers import Reads, in_solver


class Meter:
    """Context manager that counts the operations inside ``module`` while it is active.

    Several runs, and several ``with`` blocks, add up. Any device; on the meta device only
    modules that read real numbers can be counted. Gradients may be on or off.

    Args:
        module: the network that makes images. Every call of it is one evaluation. Modules
            inside it that emit "spikes" or "counts" are neurons, whose outputs give firing rates:
            a count of up to ``levels`` is that of ``levels`` time steps.

    Raises:
        ValueError: on entry if a module's ``reads`` is no kind of input; during the
            run if spikes are declared and other values arrive, or a product is undeclared,
            outside ``module``, or without a rule. After an error the counts are refused.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.evaluations = 0
        self._rows: dict[tuple[str, Reads], _Row] = {}
        self._macs_first_conv = 0
        self._sops = 0.0
        self._neurons: dict[str, tuple[int, int, int]] = {}  # spikes, updates, neurons
        self._stack: list[tuple[str, nn.Module]] = []
        self._first_conv: tuple[str, torch.Size] | None = None
        self._failure: str | None = None
        self._hooks: list[RemovableHandle] = []
        self._mode = _Listener(self)

    def __enter__(self) -> Meter:
        if self._hooks:
            raise ValueError("this Meter is already active: use one Meter per `with` block")
        try:
            for name, module in self.module.named_modules():
                reads = getattr(module, "reads", None)
                if reads is not None and reads not in get_args(Reads):
                    legal = ", ".join(map(repr, get_args(Reads)))
                    raise ValueError(f"{_path(name)}: reads={reads!r}, expected one of {legal}")
                # First in and last out, so that other hooks' products count inside the module;
                # always_call: an exception must not leave the module on the stack.
                enter, leave = self._enter(name), self._leave(name)
                self._hooks.append(module.register_forward_pre_hook(enter, prepend=True))
                self._hooks.append(module.register_forward_hook(leave, always_call=True))
            self._mode.__enter__()
        except BaseException:
            self._unhook()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._failure is None:
            self._failure = f"{type(error).__name__}: {error}"
        try:
            self._mode.__exit__(kind, error, traceback)
        finally:
            self._unhook()

    @property
    def inside(self) -> bool:
        """Whether the metered module is running."""
        return bool(self._stack)

    @property
    def firing_rates(self) -> dict[str, float]:
        """Neuron's path -> spikes per neuron and time step, in [0, 1]."""
        return {name: spikes / updates for name, (spikes, updates, _) in self._neurons.items()}

    @property
    def firing_rate(self) -> float | None:
        """All spikes / all neuron time steps; None if the network has no neurons."""
        updates = sum(updates for _, updates, _ in self._neurons.values())
        spikes = sum(spikes for spikes, _, _ in self._neurons.values())
        return spikes / updates if updates else None

    def counts(self, *, images: int, batches: int = 1) -> Counts:
        """Operations of one finished image.

        Args:
            images: images finished while the meter was active, at least 1.
            batches: calls of ``sample`` in which they were made, each with the same number of
                evaluations; an image sees ``evaluations / batches`` of them.

        Raises:
            ValueError: if the run failed, the module was never called, or the evaluations
                do not divide by ``batches``.
        """
        if self._failure is not None:
            raise ValueError(f"the metered run failed, so there are no counts: {self._failure}")
        if images < 1 or batches < 1:
            raise ValueError(f"images={images}, batches={batches}: expected at least 1 of each")
        if self.evaluations == 0 or self.evaluations % batches:
            raise ValueError(
                f"{self.evaluations} evaluations of {type(self.module).__name__} in {batches} "
                "batches: expected a positive multiple (the metered module itself is called)"
            )
        rows = self._rows.items()
        known = all(row.known for row in self._rows.values())
        return Counts(
            evaluations=self.evaluations // batches,
            macs_first_conv=self._macs_first_conv / images,
            macs=sum(row.ops for (_, reads), row in rows if reads == "real") / images,
            acs=sum(row.ops for (_, reads), row in rows if reads != "real") / images,
            dense_macs_spikes=sum(row.dense for (_, r), row in rows if r != "real") / images,
            sops=self._sops / images if known else None,
            layers=tuple(
                LayerCounts(name, reads, row.dense / images, row.ops / images, row.fraction)
                for (name, reads), row in rows
            ),
            traffic=tuple(row.traffic(name, reads, images) for (name, reads), row in rows),
            neurons=tuple(
                NeuronTraffic(name, updates / images, spikes / images, size)
                for name, (spikes, updates, size) in self._neurons.items()
            ),
        )

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._stack.clear()

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if module is self.module:
                self.evaluations += 1
                self._first_conv = None
            self._stack.append((name, module))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            while self._stack and self._stack.pop()[1] is not module:
                pass
            # An interrupted call has no output; its exception is on its way.
            if _is_neuron(module) and output is not None:
                self._record_spikes(name, output, getattr(module, "levels", None))

        return hook

    def _record_spikes(self, name: str, output: Any, levels: Any) -> None:
        if not isinstance(output, Tensor):
            raise self._error(f"{_path(name)} emits spikes as {type(output)}: expected a tensor")
        if output.is_meta:
            return
        spikes, updates, size = self._neurons.get(_path(name), (0, 0, 0))
        steps = levels if isinstance(levels, int) else 1
        sent = nonzeros(output) if steps == 1 else output.sum(dtype=torch.float64)
        spikes += int(sent)
        size = max(size, output.numel() // max(1, len(output)))
        self._neurons[_path(name)] = (spikes, updates + steps * output.numel(), size)

    def _record(self, operator: str, product: Product) -> None:
        """Add one executed product to the row of the module that is running."""
        if not self._stack:
            raise self._error(f"{operator} ran outside the metered module, so nothing counts it")
        name = _path(self._stack[-1][0])
        reads: Reads | None = next(
            (r for _, m in reversed(self._stack) if (r := getattr(m, "reads", None))), None
        )
        if reads is None:
            raise self._error(
                f"{operator} in {name}: no module around it declares what it reads; "
                "declare(layer, reads='spikes' or 'real')"
            )
        row = self._rows.setdefault((name, reads), _Row())
        nonzero: int | None
        if reads != "real":
            try:
                nonzero, ops = accumulates(product) if reads == "spikes" else events(product)
            except ValueError as error:
                raise self._error(f"{operator} in {name}, which reads {reads}: {error}") from None
        else:
            meta = product.input.is_meta
            nonzero = None if meta else int(nonzeros(product.input))
            ops = product.dense
        row.add(product, ops, nonzero)
        conv = None if product.kernel is None else (name, product.kernel)
        if conv is not None and reads == "real" and self._first_conv is None:
            self._first_conv = conv
        if conv is not None and reads == "real" and conv == self._first_conv:
            self._macs_first_conv += product.dense
        elif nonzero is not None:
            self._sops += nonzero * product.dense / max(1, product.input.numel())

    def _in_neuron(self) -> bool:
        return any(_is_neuron(module) for _, module in self._stack)

    def _unruled(self, func: Any) -> ValueError:
        where = _path(self._stack[-1][0]) if self._stack else "no metered module"
        return self._error(
            f"{func} in {where}: no rule counts it. Expected an operator of "
            "bench.energy.products.RULES or, for operators from outside PyTorch, a neuron "
            "(a module with emits='spikes')"
        )

    def _error(self, message: str) -> ValueError:
        """The error to raise; remembered, so that swallowing it does not yield counts."""
        self._failure = message
        return ValueError(message)


class _Row:
    """Running totals of one module."""

    def __init__(self) -> None:
        self.dense = 0
        self.ops = 0
        self.nonzeros = 0
        self.inputs = self.outputs = self.biased = self.slots = 0
        self.sizes = (0, 0, 0, 0)
        self.known = True

    def add(self, product: Product, ops: int, nonzero: int | None) -> None:
        self.dense += product.dense
        self.ops += ops
        self.inputs += product.input.numel()
        self.outputs += product.outputs
        self.biased += product.outputs if product.biases else 0
        slots = max(1, len(product.input))
        self.slots += slots
        sizes = (
            product.weights + product.biases,
            product.input.numel() // slots,
            product.outputs // slots,
            product.taps,
        )
        self.sizes = cast(Any, tuple(map(max, self.sizes, sizes)))
        self.nonzeros += nonzero or 0
        self.known &= nonzero is not None

    @property
    def fraction(self) -> float | None:
        return self.nonzeros / self.inputs if self.known and self.inputs else None

    def traffic(self, name: str, reads: Reads, images: int) -> LayerTraffic:
        weights, input_size, output_size, taps = self.sizes
        return LayerTraffic(
            name,
            reads,
            ops=self.ops / images,
            inputs=self.inputs / images,
            nonzero_inputs=self.nonzeros / images if self.known else None,
            outputs=self.outputs / images,
            biased_outputs=self.biased / images,
            slots=self.slots / images,
            weights=weights,
            input_size=input_size,
            output_size=output_size,
            taps=taps,
        )


class _Listener(TorchDispatchMode):
    """Observes every operator below autograd and passes the products to the meter."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter
        self.kinds: dict[Any, _Kind] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if in_solver() and not self.meter.inside:
            return func(*args, **kwargs)
        kind = self.kinds.get(func)
        if kind is None:
            kind = self.kinds[func] = _kind(func)
        if kind == "composite":
            # In inference mode composite operators arrive whole: take them apart, as autograd
            # would have done, so that their products arrive here one by one.
            with self:
                return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if kind == "unruled" or (kind == "foreign" and not self.meter._in_neuron()):
            raise self.meter._unruled(func)
        out = func(*args, **kwargs)
        if kind == "product":
            rule = RULES[_operator(func).rstrip("_")]
            with torch.no_grad():
                self.meter._record(str(func), rule(func, args, kwargs, out))
        return out


_Kind = Literal["product", "composite", "unruled", "foreign", "other"]


def _kind(func: Any) -> _Kind:
    """Kind of an operator for the meter: "other" is free, "foreign" is free in a neuron."""
    namespace, name = func.namespace, _operator(func)
    if namespace == "aten" and name.rstrip("_") in RULES:
        return "product"
    composite = "CompositeImplicitAutograd"
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
        return "composite"
    if looks_like_product(namespace, name):
        return "unruled"
    return "other" if namespace in KNOWN_NAMESPACES else "foreign"


def _operator(func: Any) -> str:
    return cast(str, func._schema.name.split("::")[1])


def _is_neuron(module: nn.Module) -> bool:
    return getattr(module, "emits", None) in ("spikes", "counts")


def _path(name: str) -> str:
    """A module's path for people: the metered module itself has an empty one."""
    return name or "(the metered module)"
