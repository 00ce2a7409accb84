"""The last pass for Neuron, and handing the graph to the vendor's compiler through torch's public registry."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from functorch.compile import aot_module_simplified, make_boxed_func
from torch.fx import Graph, GraphModule, Node

from bi_inductor.decompositions import core_table
from bi_inductor.errors import LoweringError, UnsupportedDeviceError
from bi_inductor.ops import SCHEMAS
from lowerings.neuron.device import load, neuron_kind
from lowerings.neuron.plans import plan_of

#: kind of device -> the backend of torch.compile that takes over
INNER = {"native": "neuron", "xla": "openxla"}

#: second net behind the rules of the planner: what neuronx-cc would compile per shape, in an order of its own
ADDS_UP = frozenset(
    (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "addbmm",
        "mv",
        "dot",
        "linear",
        "matmul",
        "convolution",
        "sum",
        "mean",
        "var",
        "var_mean",
        "std",
        "prod",
        "norm",
        "linalg_vector_norm",
        "logsumexp",
        "cumsum",
        "cumprod",
        "softmax",
        "_softmax",
        "log_softmax",
        "_log_softmax",
        "native_layer_norm",
        "native_group_norm",
        "_fused_rms_norm",
        "scaled_dot_product_attention",
        "scatter_add",
        "index_add",
        "topk",
        "sort",
    )
)


def compile_planned(
    gm: GraphModule, example_inputs: Sequence[Any], plan: Callable[[Graph], None]
) -> Callable[..., Any]:
    """Trace a Dynamo graph, let ``plan`` rewrite it in place, and hand it to the vendor's compiler.

    Raises:
        UnsupportedDeviceError: dynamic shapes, or a graph that needs gradients.
        LoweringError: see ``compile_graph``.
    """
    refuse_symbolic_shapes(gm, example_inputs)

    def inference(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        plan(graph.graph)
        return compile_graph(graph, inputs)

    def training(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        raise UnsupportedDeviceError(
            "gradients have no Neuron kernels; call the compiled model under torch.no_grad()"
        )

    return aot_module_simplified(  # type: ignore[no-any-return]
        gm,
        list(example_inputs),
        fw_compiler=training,
        bw_compiler=training,
        inference_compiler=inference,
        decompositions=core_table(),
    )


def compile_graph(
    gm: GraphModule, example_inputs: Sequence[Any], *, inner: str | None = None
) -> Callable[..., Any]:
    """Turn a rewritten graph into a boxed callable: retarget it, then let the ``inner`` backend compile it.

    ``inner`` defaults to the backend of the inputs' device. The result takes one list, as AOTAutograd asks.

    Raises:
        UnsupportedDeviceError: a symbolic shape, no NeuronCore among the inputs, or no such backend.
        LoweringError: an op without a Neuron kernel, or a plan number that the kernels were not written for.
    """
    refuse_symbolic_shapes(gm, example_inputs)
    if inner is None:
        inner = INNER[_kind_of(example_inputs)]
        load()
    compiled = find_backend(inner)(retarget(gm), list(example_inputs))
    # a backend's result takes its inputs one by one, as Dynamo calls it; AOT's even when it says _boxed_call
    return make_boxed_func(compiled)  # type: ignore[no-any-return]


def refuse_symbolic_shapes(gm: GraphModule, example_inputs: Sequence[Any]) -> None:
    """Refuse graphs of ``dynamic=True`` (UnsupportedDeviceError)."""
    values = [n.meta.get("val") for n in gm.graph.nodes if n.op == "placeholder"]
    for value in [*values, *example_inputs]:
        sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
        for size in sizes:
            if isinstance(size, torch.SymInt):
                raise UnsupportedDeviceError(
                    f"dynamic shapes ({size}) cannot run on a NeuronCore: every shape is a program of its own. "
                    "Compile with dynamic=False, set torch._dynamo.config.automatic_dynamic_shapes = False, and "
                    "use lowerings.neuron.bucket_rows to keep the number of programs small"
                )


def find_backend(name: str) -> Callable[..., Any]:
    """Return a backend of ``torch.compile`` by name; UnsupportedDeviceError if it is not registered."""
    registry: Any = torch._dynamo  # noqa: TID251  list_backends and lookup_backend are its public part
    known = registry.list_backends(exclude_tags=())
    if name not in known:
        raise UnsupportedDeviceError(
            f"torch.compile has no backend {name!r} (it has {', '.join(known)}); install torch-neuronx from the "
            "AWS Neuron SDK and import torch_neuronx before compiling"
        )
    return registry.lookup_backend(name)  # type: ignore[no-any-return]


def retarget(gm: GraphModule) -> GraphModule:
    """Replace every ``torch.ops.bi_inductor.<op>`` by its ``neuron_<op>``, in place; other nodes stay.

    Raises:
        LoweringError: an op without a kernel, a plan number of another device, or a sum left to the compiler.
    """
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        namespace, name = node.target._schema.name.split("::")
        if namespace == "bi_inductor" and name in SCHEMAS:
            _retarget_node(gm, node, name)
        elif namespace == "aten" and name in ADDS_UP:
            raise LoweringError(
                f"{node.target}{_where(node)} was left to the Neuron compiler, which orders its additions by "
                "shape; it has no rule or no kernel here, so keep it outside the compiled region"
            )
    gm.graph.lint()
    gm.recompile()
    return gm


def _retarget_node(gm: GraphModule, node: Node, name: str) -> None:
    given = _arguments(node)
    try:
        numbers = plan_of(name).numbers()
    except ValueError as error:
        raise LoweringError(f"{error}{_where(node)}") from None
    for keyword, wanted in numbers.items():
        number = given.pop(keyword)
        if number != wanted:
            raise LoweringError(
                f"bi_inductor.{name}{_where(node)} has {keyword}={number}, the NKI kernels were written for "
                f"{wanted}: the graph was planned for another device"
            )
    given.pop("uniform", None)  # the tiles are the plan: there is no other schedule
    if name == "reduction" and given.pop("param"):
        raise LoweringError(f"bi_inductor.reduction{_where(node)}: no Neuron kernel takes a param")
    if "alpha" in given:
        given["alpha"], given["beta"] = float(given["alpha"]), float(given["beta"])
    target = getattr(torch.ops.bi_inductor, "neuron_mm" if name == "bmm" else f"neuron_{name}")
    with gm.graph.inserting_before(node):
        new = gm.graph.call_function(target.default, tuple(given.values()))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)


def _arguments(node: Node) -> dict[str, Any]:
    """Return all arguments of a node by name, in the order of the schema."""
    assert isinstance(node.target, torch._ops.OpOverload)
    given: dict[str, Any] = {}
    for i, argument in enumerate(node.target._schema.arguments):
        if i < len(node.args) and not argument.kwarg_only:
            given[argument.name] = node.args[i]
        else:
            given[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return given


def _kind_of(example_inputs: Sequence[Any]) -> str:
    devices = {value.device for value in example_inputs if isinstance(value, torch.Tensor)}
    kinds = {neuron_kind(device) for device in devices}
    if len(kinds) != 1 or None in kinds:
        found = ", ".join(sorted(map(str, devices))) or "no tensor"
        raise UnsupportedDeviceError(
            f"the inputs are not all on a NeuronCore: found {found}; use .to('neuron')"
        )
    (kind,) = kinds
    assert kind is not None
    return kind


def _where(node: Node) -> str:
    trace = node.meta.get("stack_trace") or ""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return f" ({' '.join(lines[-2:])})" if lines else f" (node {node.name})"
