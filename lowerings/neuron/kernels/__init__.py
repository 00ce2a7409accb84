"""NKI kernels: the only modules that import ``nki``. ``lowerings.neuron.device`` imports them, nobody else.

They stay inside the subset of NKI listed in ``docs/neuron.md`` and name the engine wherever the compiler
would otherwise choose one by workload. Arguments are checked by the launchers in ``ops.py``, not here.
"""
