"""What a machine with an NVIDIA GPU runs beside ``pytest --bi-device cuda``: the bits of kernels and of a decoder.

    python -m tests.lowerings.cuda.on_device CHECK [PART ..]

CHECK is one of the functions in ``CHECKS``; a PART is a dtype, DTYPE-HEADDIM, DTYPE-NxK or a model, as printed in
front of the colon. Prints one line a check; exits with 1 if any bit differs or a negative control does not.
"""

import sys

import torch

from tests.lowerings.cuda.on_device import attention, models, products, rows
from tests.lowerings.cuda.on_device.check import CHOSEN, FAILED

CHECKS = {
    "products": products.products,
    "attention": attention.attentions,
    "hopper": attention.hopper,
    "prefill": attention.prefill,
    "decode": attention.decode,
    "rows": rows.rows,
    "overlap": rows.overlap,
    "orders": rows.orders,
    "decoder": models.decoders,
    "models": models.models,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.exit(f"usage: python -m tests.lowerings.cuda.on_device {'|'.join(CHECKS)} [PART ..]")
    torch.manual_seed(0)
    CHOSEN.extend(sys.argv[2:])
    CHECKS[sys.argv[1]]()
    print(f"{' '.join(sys.argv[1:])}: {len(FAILED)} failed", *FAILED, sep="\n  ")
    sys.exit(bool(FAILED))
