"""CUDA lowerings: Triton kernels of one plan each, with schedules that follow the number of rows."""


def load() -> None:
    """Register the kernels; Triton is imported here and nowhere earlier.

    Raises:
        UnsupportedDeviceError: the GPU is older than compute capability 8.0.
    """
    from lowerings.cuda import register

    register.load()
