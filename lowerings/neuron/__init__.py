"""NKI kernels for AWS Neuron."""
