"""AWS Neuron: NKI kernels with fixed tiles, then the vendor's compiler. Emulated on CPU, not validated on Trainium.

Importing this package imports neither ``nki`` nor ``torch_neuronx``; ``load()`` does, on a Neuron instance.
"""

from lowerings.neuron.buckets import bucket_rows
from lowerings.neuron.device import load, neuron_kind
from lowerings.neuron.graph import compile_graph, compile_planned, retarget
from lowerings.neuron.plans import PLAN_VERSION, plan_of

__all__ = [
    "PLAN_VERSION",
    "bucket_rows",
    "compile_graph",
    "compile_planned",
    "load",
    "neuron_kind",
    "plan_of",
    "retarget",
]
