"""CPU lowerings: C++ kernels built once per machine (``csrc``), their plans (``plans.py``) and the builder."""


def load() -> None:
    """Build the kernels if this machine has none yet, and register them.

    Raises:
        CompilerMissingError: no C++ compiler is installed.
    """
    from lowerings.cpu import build

    build.load()
