"""The way of a graph: attention, AOTAutograd, plan, rewrite, Inductor with its choices pinned, certificate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule

from bi_inductor import _torch, certificates
from bi_inductor.attention import open_attention
from bi_inductor.batch import BatchSpec, infer_batch_spec
from bi_inductor.cache import sources_digest
from bi_inductor.decompositions import decomposition_table
from bi_inductor.errors import UnsupportedDeviceError
from bi_inductor.options import Options, make_options
from bi_inductor.plan import make_plan
from bi_inductor.rewrite import rewrite


def compile_graph(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None,
    options: Mapping[str, Any] | None,
) -> Callable[..., Any]:
    """Compile one Dynamo graph; the arguments and errors of ``backend.batch_invariant``."""
    from lowerings import _inductor, table

    _torch.check_version()
    pins = _inductor.pins()
    chosen = make_options(mode, options, pins)
    device = graph_device(gm, example_inputs)
    table.load(device)
    _torch.keep_compiling()
    spec = batch_of_inputs(gm, chosen)
    gm = open_attention(gm)
    record = certificates.open_graph(gm, device=device, options=chosen, batch=spec)
    patches = {
        **pins,
        **dict(chosen.inductor),
        **({"triton.cudagraphs": True} if chosen.cudagraphs else {}),
        "joint_custom_pre_pass": PlanPass(device, chosen, spec, record),
    }
    compiled = _torch.compile_fx(
        gm,
        list(example_inputs),
        inner_compile=_inductor.compile_pinned,
        config_patches=patches,
        decompositions=decomposition_table(),
    )
    record.close()
    return compiled


def graph_device(gm: GraphModule, example_inputs: Sequence[Any]) -> str:
    """The one device type of a graph.

    Raises:
        UnsupportedDeviceError: its tensors live on more than one type of device besides the CPU's scalars.
    """
    found = {e.device.type for e in example_inputs if isinstance(e, torch.Tensor) and e.dim()}
    for node in gm.graph.nodes:
        value = node.meta.get("example_value")
        if isinstance(value, torch.Tensor) and value.dim():
            found.add(value.device.type)
    if len(found) > 1:
        raise UnsupportedDeviceError(
            f"one graph holds tensors on {' and '.join(sorted(found))}; move its inputs to one device"
        )
    return found.pop() if found else "cpu"


def batch_of_inputs(gm: GraphModule, options: Options) -> BatchSpec:
    """Where the batch lives in the placeholders of a Dynamo graph."""
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    sources = [_torch.input_source(n) for n in placeholders]
    return infer_batch_spec(
        [n.meta.get("example_value") for n in placeholders],
        is_param=[source.is_state for source in sources],
        marked={i: s.marked for i, s in enumerate(sources) if s.marked},
        named=[source.name for source in sources],
        option=dict(options.batch_dims),
    )


class PlanPass(_torch.CustomGraphPass):
    """Plan and rewrite, as Inductor's first pass over the joint or inference graph.

    First, because later passes turn attention and matmul into library calls; and a pass, because its
    ``uuid`` is then part of the keys of the FX graph cache and of AOTAutograd's cache.
    """

    def __init__(
        self, device: str, options: Options, spec: BatchSpec, record: certificates.GraphRecord
    ) -> None:
        self.device, self.options, self.spec, self.record = device, options, spec, record

    def __call__(self, graph: Graph) -> None:
        """Rewrite ``graph`` in place.

        Raises:
            VariantOpError: an op mixes samples, or cannot be proved not to.
        """
        gm = graph.owning_module
        planned = make_plan(
            gm,
            device=self.device,
            batch=self.spec.for_placeholders(graph),
            backward=_torch.is_backward,
            on_variant=self.options.on_variant,
        )
        self.record.add(planned)
        rewrite(gm, planned)

    def uuid(self) -> Any:
        """What shapes the generated code and is no Inductor setting."""
        return ("bi_inductor", sources_digest(), repr(self.options), repr(self.spec), self.device)
