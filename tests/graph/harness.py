"""Capture the ATen graph of a function as the backend sees it, and plan it; no kernel of ours runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import default_partition

from bi_inductor._torch import input_source, is_backward
from bi_inductor.attention import open_attention
from bi_inductor.decompositions import decomposition_table
from bi_inductor.pipeline import InputBatch
from bi_inductor.plan import Planned, make_plan, output_nodes

_TABLE = decomposition_table()


def plans_of(
    fn: Callable[..., Any],
    *inputs: Any,
    dynamic: bool | None = False,
    on_variant: str = "error",
    batch_dims: dict[str, int | None] | None = None,
    then: Callable[[torch.fx.GraphModule, Planned], Any] | None = None,
    fullgraph: bool = True,
    device: str = "cpu",
    again: Sequence[tuple[Any, ...]] = (),
    **kwargs: Any,
) -> list[Planned]:
    """Compile ``fn`` with a backend that plans each joint or inference graph and returns zeros.

    ``again``: the inputs of further calls, which are planned anew where the guards do not admit them.
    """
    torch._dynamo.reset()
    plans: list[Planned] = []

    def backend(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        sources = tuple(map(input_source, gm.graph.find_nodes(op="placeholder")))
        inputs = InputBatch(sources, tuple((batch_dims or {}).items()))
        gm = open_attention(gm)

        def plan(graph_module: torch.fx.GraphModule) -> None:
            planned = make_plan(
                graph_module,
                device=device,
                batch=inputs.spec(graph_module.graph),
                backward=is_backward,
                on_variant=on_variant,  # type: ignore[arg-type]
            )
            plans.append(planned)
            if then is not None:
                then(graph_module, planned)

        def inference(graph_module: torch.fx.GraphModule, _inputs: Any) -> Any:
            plan(graph_module)
            return zeros_like_outputs(graph_module)

        def partition(joint: torch.fx.GraphModule, joint_inputs: Any, **options: Any) -> Any:
            plan(joint)
            return default_partition(joint, joint_inputs, **options)

        return aot_autograd(
            fw_compiler=lambda g, _: zeros_like_outputs(g),
            bw_compiler=lambda g, _: zeros_like_outputs(g),
            inference_compiler=inference,
            partition_fn=partition,
            decompositions=_TABLE,
        )(gm, example_inputs)

    compiled = torch.compile(fn, backend=backend, dynamic=dynamic, fullgraph=fullgraph)
    compiled(*inputs, **kwargs)
    for others in again:
        compiled(*others, **kwargs)
    return plans


def zeros_like_outputs(gm: torch.fx.GraphModule) -> Callable[..., Any]:
    """Stand in for compiled code: the right shapes, no kernel."""

    def size_of(size: Any) -> int:
        return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)

    def zeros(node: Any) -> Any:
        fake = node.meta.get("val") if isinstance(node, torch.fx.Node) else node
        if isinstance(fake, torch.Tensor):
            return torch.zeros([size_of(s) for s in fake.shape], dtype=fake.dtype)
        return size_of(fake) if isinstance(fake, torch.SymInt) else fake

    def run(*_inputs: Any) -> Any:
        return [zeros(node) for node in output_nodes(gm)]

    return run


def plan_of(fn: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Planned:
    """Plan a function of one graph."""
    (planned,) = plans_of(fn, *inputs, **kwargs)
    return planned
