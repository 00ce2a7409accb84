"""The CPU: plans in ``plans.py``, kernels in ``csrc``."""
