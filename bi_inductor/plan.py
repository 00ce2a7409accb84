"""``make_plan``: read a graph, give every node a verdict and every sum a plan. Changes nothing."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import sympy
import torch
from torch.fx import GraphModule, Node

from bi_inductor.batch import BatchSpec, hold_equal, is_tangent
from bi_inductor.errors import (
    LoweringError,
    NoPlanError,
    PlanError,
    UnknownOpError,
    UnsupportedOpError,
    VariantOpError,
    Where,
)
from bi_inductor.flow.axes import Extent, Role, Value, carries, plain, total
from bi_inductor.flow.engine import Flow, Result, is_tensor
from bi_inductor.flow.facts import WHOLE_BATCH, Selection
from bi_inductor.rules import Judgement, Verdict, judge
from bi_inductor.templates import Plan, PlanKey, Template

OnVariant = Literal["error", "warn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node with its verdict; a PLANNED one has a template and a plan.

    ``reduced``: the extents that it adds up. ``batch_dim``: the dim of its result that carries the batch.
    ``blame``: the earlier node at fault, if it is not this one.
    """

    node: Node
    verdict: Verdict
    template: Template | None = None
    plan: Plan | None = None
    reason: str = ""
    remedy: str = ""
    blame: Node | None = None
    reduced: tuple[Extent | None, ...] = ()
    batch_dim: int | None = None

    def text(self) -> str:
        """Return one line without anything that a batch size could change."""
        parts = [op_name(self.node), self.verdict.value]
        if self.template is not None:
            parts.append(self.template.text())
        if self.plan is not None:
            parts.append(self.plan.text())
        if self.reason:
            parts.append(f"# {self.reason}")
        return "  ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan of a graph.

    ``steps``: every node in order. ``variants``: ops that mix samples or are unknown, tolerated by
    ``on_variant="warn"``. ``allowed_backward``: sums over the batch that gradients are made of.
    ``random``: draws of a training graph. ``output_batch``: the batch dim of each output, or None.
    """

    steps: tuple[Step, ...]
    variants: tuple[Step, ...] = ()
    allowed_backward: tuple[Step, ...] = ()
    random: tuple[Step, ...] = ()
    output_batch: tuple[int | None, ...] = ()

    def text(self) -> str:
        """Return one line per step that is planned or has a reason; equal for every batch size."""
        return "\n".join(s.text() for s in self.steps if s.plan is not None or s.reason)


def make_plan(
    gm: GraphModule,
    *,
    device: str,
    batch: BatchSpec,
    backward: Callable[[Node], bool],
    on_variant: OnVariant = "error",
    training: bool | None = None,
    mixed: bool = False,
) -> Planned:
    """Give every node of an ATen graph its verdict and its plan.

    Args:
        gm: a functional graph (inference, joint, forward or backward) with ``meta["val"]`` on its nodes.
        device: name of the device whose plans to use.
        batch: where the batch is in the placeholders.
        backward: whether a node was traced by the backward: its sums over the batch are gradients.
        on_variant: "error" raises at the first op that mixes samples or is unknown, "warn" records it.
        training: whether random numbers and a loss over the batch are expected; default: any backward node.
        mixed: nodes whose tensors are on the CPU get the plans of the CPU.

    Raises:
        VariantOpError: an op mixes samples.
        UnknownOpError: an op has no rule.
        UnsupportedOpError: an op has a template that the device has no plan for.
        PlanError: a plan that would depend on the size of the batch.
    """
    if training is None:
        training = any(backward(node) for node in gm.graph.nodes if node.op == "call_function")
    held: set[tuple[Extent, Extent]] = set()
    while True:
        try:
            return _Planner(gm, device, batch, backward, on_variant, training, mixed, held).run()
        except _SameSizes as same:
            held.add(same.sizes)


class _SameSizes(Exception):
    """A new guard of the graph has made one symbol of two: it is planned anew."""

    def __init__(self, sizes: tuple[Extent, Extent]) -> None:
        super().__init__(sizes)
        self.sizes = sizes


class _Planner:
    def __init__(
        self,
        gm: GraphModule,
        device: str,
        batch: BatchSpec,
        backward: Callable[[Node], bool],
        on_variant: OnVariant,
        training: bool,
        mixed: bool,
        held: set[tuple[Extent, Extent]],
    ) -> None:
        self.gm, self.device, self.batch, self.mixed = gm, device, batch, mixed
        self.held = held
        self.backward, self.on_variant, self.training = backward, on_variant, training
        self.flow = Flow(batch.symbols(gm.graph))
        self.steps: dict[Node, Step] = {}
        self.variants: list[Step] = []
        self.allowed: list[Step] = []
        self.random: list[Step] = []

    def run(self) -> Planned:
        self._enter()
        for node in _gradients_last(self.gm):
            if node.op == "call_function":
                self._step(node)
            elif node.op == "placeholder" and is_tangent(node):
                self._tangent(node)
            elif node.op == "get_attr":
                fake = node.meta.get("val")
                self.flow.values[node] = (
                    plain(self.flow.sizes.shape(fake)) if isinstance(fake, torch.Tensor) else None
                )
        outputs = self._leave()
        return Planned(
            steps=tuple(self.steps[n] for n in self.gm.graph.nodes if n in self.steps),
            variants=tuple(self.variants),
            allowed_backward=tuple(self.allowed),
            random=tuple(self.random),
            output_batch=outputs,
        )

    def _enter(self) -> None:
        inputs = [n for n in self.gm.graph.find_nodes(op="placeholder") if not is_tangent(n)]
        for index, node in enumerate(inputs):
            fake = node.meta.get("val")
            if isinstance(fake, torch.Tensor):
                self.flow.values[node] = self.batch.value(index, fake)

    def _tangent(self, node: Node) -> None:
        """A tangent has the batch where its output has it."""
        index = int(str(node.target).removeprefix("tangents_")) - 1
        fake = node.meta["val"]
        shape = self.flow.sizes.shape(fake)
        matching = [
            v for v in self._output_values() if v is not None and tuple(map(total, v.dims)) == shape
        ]
        like = self._output_values()[index] if index < len(self._output_values()) else None
        if like is None or tuple(map(total, like.dims)) != shape:
            like = next(iter(matching), None)
        self.flow.values[node] = like.without_fact() if like else plain(shape)

    def _output_values(self) -> list[Value | None]:
        return [
            self.flow.value(n) if is_tensor(n) and n in self.flow.values else None
            for n in output_nodes(self.gm)
        ]

    def _step(self, node: Node) -> None:
        is_backward = self.backward(node)
        found = judge(node, self.flow, training=self.training, backward=is_backward)
        self.flow.values[node] = _checked(found.result, node)
        if found.verdict in (Verdict.BATCH_COUPLED, Verdict.UNKNOWN):
            self._mixes(node, found, is_backward)
            return
        try:
            plan = self._plan(node, found, batch_sum=_counts(found.result))
        except NoPlanError as error:
            self._unsupported(node, found, str(error))
            return
        step = Step(
            node=node,
            verdict=found.verdict,
            template=found.template,
            plan=plan,
            reason=found.reason,
            reduced=found.reduced,
            batch_dim=_batch_dim(found.result),
        )
        self.steps[node] = step
        if found.over_batch:
            self.allowed.append(step)
        elif found.reason:
            self.random.append(step)

    def _mixes(self, node: Node, found: Judgement, is_backward: bool) -> None:
        sizes = found.unless_equal
        if sizes and sizes not in self.held and hold_equal(self.gm.graph, *sizes):
            raise _SameSizes(sizes)
        allowed = found.over_batch and (is_backward or (self.training and self._is_loss(node)))
        blamed = found.blame or node
        if not allowed and self.on_variant == "error":
            raise _error(blamed, found)
        try:
            plan = self._plan(node, found, batch_sum=True)
        except NoPlanError:
            plan = None
        reason = f"{found.reason} (a gradient or loss)" if allowed else found.reason
        step = Step(
            node=node,
            verdict=found.verdict if plan is None else Verdict.PLANNED,
            template=found.template,
            plan=plan,
            reason=reason,
            remedy=found.remedy,
            blame=found.blame,
            reduced=found.reduced,
            batch_dim=_batch_dim(found.result),
        )
        self.steps[node] = step
        (self.allowed if allowed else self.variants).append(step)

    def _unsupported(self, node: Node, found: Judgement, reason: str) -> None:
        refused = Judgement(
            verdict=Verdict.UNSUPPORTED,
            reason=f"has no lowering on this device: {reason}",
            remedy="compute it in another dtype, or keep it out of the graph with torch.compiler.disable",
        )
        if self.on_variant == "error":
            raise _error(node, refused)
        step = Step(
            node=node,
            verdict=refused.verdict,
            template=found.template,
            reason=refused.reason,
            remedy=refused.remedy,
            reduced=found.reduced,
            batch_dim=_batch_dim(found.result),
        )
        self.steps[node] = step
        self.variants.append(step)

    def _is_loss(self, node: Node) -> bool:
        """A sum over the batch whose result meets no sample again before the backward."""
        seen, queue = {node}, [node]
        while queue:
            for user in queue.pop().users:
                if user in seen or user.op == "output" or self.backward(user):
                    continue
                others = [n for n in user.all_input_nodes if n not in seen and is_tensor(n)]
                if any(any(carries(d) for d in self.flow.value(n).dims) for n in others):
                    return False
                seen.add(user)
                queue.append(user)
        return True

    def _plan(self, node: Node, found: Judgement, *, batch_sum: bool) -> Plan | None:
        if found.template is None or found.dtype is None:
            return None
        key = plan_key(
            found.template,
            found.reduced,
            found.dtype,
            "cpu" if self.mixed and _on_cpu(node) else self.device,
            # integers and bools are exact in any order and over any extent
            symbols=frozenset()
            if batch_sum or not found.dtype.is_floating_point
            else self.flow.batch_symbols,
            node=node,
        )
        return device_plan(key, found.template)

    def _leave(self) -> tuple[int | None, ...]:
        """Whatever leaves the graph must be in the order of the batch."""
        dims: list[int | None] = []
        for node, value in zip(output_nodes(self.gm), self._output_values(), strict=True):
            dims.append(value.batch_dim if value is not None else None)
            problem = _leaving_problem(value) if value is not None else None
            if problem is None or not isinstance(node, Node) or self.backward(node):
                continue
            reason, remedy, maker = problem
            found = Judgement(verdict=Verdict.BATCH_COUPLED, reason=reason, remedy=remedy)
            blamed = maker if isinstance(maker, Node) else node
            if self.on_variant == "error":
                raise _error(blamed, found)
            self.variants.append(
                Step(node=blamed, verdict=found.verdict, reason=reason, remedy=remedy)
            )
        return tuple(dims)


def _leaving_problem(value: Value) -> tuple[str, str, object] | None:
    axis = next((a for dim in value.dims for a in dim if a.role == Role.ROWS), None)
    if axis is not None:
        if isinstance(axis.tag, Selection):
            return (
                "selects elements by a mask, and they leave the graph without their samples",
                "put them back by the same mask, or use torch.where, which keeps each element in its place",
                axis.tag.mask,
            )
        keys = getattr(axis.tag, "keys", None)
        return (
            "permutes the samples, and the result leaves the graph in that order",
            "put the rows back before they are returned",
            keys,
        )
    made_by = getattr(value.fact, "made_by", None)
    if isinstance(value.fact, WHOLE_BATCH) and not str(getattr(value.fact, "position", "")):
        return ("counts over the whole batch", "keep the counts inside the model", made_by)
    return None


def _on_cpu(node: Node) -> bool:
    made = node.meta.get("val")
    first = made[0] if isinstance(made, (tuple, list)) else made
    return isinstance(first, torch.Tensor) and first.device.type == "cpu"


def _counts(result: Result) -> bool:
    """Whether a node counts over the batch on purpose: exact, and followed by the proof of routing."""
    return isinstance(result, Value) and isinstance(result.fact, WHOLE_BATCH)


def _batch_dim(result: Result) -> int | None:
    return result.batch_dim if isinstance(result, Value) else None


def _checked(result: Result, node: Node) -> Result:
    """Hold an abstract value to the shape of the node: a wrong transfer is an error of ours."""
    fakes = node.meta.get("val")
    if isinstance(result, Value) and isinstance(fakes, torch.Tensor):
        assert len(result.dims) == fakes.dim(), f"{node.format_node()}: {result}"
    return result


def output_nodes(gm: GraphModule) -> list[object]:
    """Return the flat outputs of a graph."""
    (output,) = gm.graph.find_nodes(op="output")
    flat: list[object] = []

    def add(item: object) -> None:
        if isinstance(item, (tuple, list)):
            for part in item:
                add(part)
        else:
            flat.append(item)

    add(output.args[0])
    return flat


def _gradients_last(gm: GraphModule) -> Iterator[Node]:
    """Yield all nodes in an order in which outputs are known before the tangents that belong to them."""
    late: set[Node] = set()
    for node in gm.graph.nodes:
        if (node.op == "placeholder" and is_tangent(node)) or any(
            n in late for n in node.all_input_nodes
        ):
            late.add(node)
        else:
            yield node
    for node in gm.graph.nodes:
        if node in late:
            yield node


def plan_key(
    template: Template,
    reduced: tuple[Extent | None, ...],
    dtype: torch.dtype,
    device: str,
    *,
    symbols: frozenset[sympy.Symbol],
    node: Node,
) -> PlanKey:
    """Make the key of a plan: what is symbolic may grow, so the plan gets None for it.

    Raises:
        PlanError: an extent contains a symbol of the batch.
    """
    extents: list[int | None] = []
    for extent in reduced:
        seen: frozenset[sympy.Symbol] = getattr(extent, "free_symbols", frozenset()) & symbols
        if seen:
            raise PlanError(
                op_name(node), where(node), str(extent), ", ".join(sorted(map(str, seen)))
            )
        extents.append(extent if isinstance(extent, int) else None)
    return PlanKey(template=type(template), reduced=tuple(extents), dtype=dtype, device=device)


def device_plan(key: PlanKey, template: Template) -> Plan:
    """Return the plan of a key from the plans of its device.

    Raises:
        UnsupportedDeviceError: the device has no plans.
        NoPlanError: the device has plans, and none for this template, kind or dtype.
    """
    from lowerings.table import plans_of

    plans = plans_of(key.device)
    # a key has no kind, so a device whose kernels lack one says so in ``refusal``
    refused = plans.refusal(template) if hasattr(plans, "refusal") else None
    if refused is not None:
        raise NoPlanError(refused)
    try:
        plan: Plan = plans.plan_for(key)
    except (ValueError, LoweringError) as error:
        raise NoPlanError(str(error)) from None
    return plan


def op_name(node: Node) -> str:
    """Return e.g. ``aten.sum.dim_IntList``."""
    return (
        str(getattr(node.target, "__name__", node.target))
        if not hasattr(node.target, "_schema")
        else str(node.target)
    )


_TORCH = os.path.dirname(torch.__file__) + os.sep


def where(node: Node) -> Where:
    """Return the user's source line and module of a node; a line of torch where it has no other."""
    lines = [
        line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()
    ]
    frames = [i for i in reversed(range(len(lines))) if lines[i].startswith('File "')]
    # torch.nn.functional is traced like a user's file
    own = (i for i in frames if not lines[i].startswith(f'File "{_TORCH}'))
    place = next(own, frames[0] if frames else None)
    line = code = ""
    if place is not None:
        parts = lines[place].split('"')
        number = lines[place].partition(", line ")[2].split(",")[0]
        line = f"{parts[1]}:{number}"
        code = lines[place + 1] if place + 1 < len(lines) else ""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values() if entry]
    return Where(line=line, code=code, module=paths[-1] if paths else "")


_ERRORS = {Verdict.UNKNOWN: UnknownOpError, Verdict.UNSUPPORTED: UnsupportedOpError}


def _error(node: Node, found: Judgement) -> VariantOpError:
    kind = _ERRORS.get(found.verdict, VariantOpError)
    original = node.meta.get("original_aten")
    name = op_name(node)
    if original is not None and str(original) != name:
        name = f"{name} (part of {original})"
    return kind(name, where(node), found.reason, remedy_of(node, found.remedy))


def remedy_of(node: Node, remedy: str) -> str:
    """Return what to do about a node that mixes samples: the op's remedy, or that of what it is a part of."""
    if "batch_norm" in str(node.meta.get("original_aten")):
        return "call model.eval(), or use a norm over the features (GroupNorm, LayerNorm)"
    return remedy
