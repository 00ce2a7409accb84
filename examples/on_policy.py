"""Is the policy that is trained the policy that was sampled? KL between generation and one forward over the text.

Reinforcement learning samples token by token and scores the finished text in one forward pass. With stock torch
the two differ, so on-policy training is slightly off-policy. SmolLM2-135M-Instruct, a few answers with a seed each.
"""

import argparse
import copy
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from quickstart import OTHERS, compile_blocks, gguf_file, load, new_cache
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from bi_inductor.direct import softmax
from bi_inductor.generation import generate


def rollout(model: PreTrainedModel, inputs, seeds: list[int], new: int) -> tuple[Tensor, Tensor]:
    """Sample an answer per row. Returns the texts ``[rows, length + new]`` and the log-probabilities of every step."""
    out = generate(
        model,
        inputs["input_ids"],
        inputs["attention_mask"],
        seeds=seeds,
        temperature=1.0,
        max_new_tokens=new,
        past_key_values=new_cache(model, len(seeds)),
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences, softmax(torch.stack(out.logits, 1).float(), log=True)


def score(model: PreTrainedModel, text: Tensor, prompt_mask: Tensor, new: int) -> Tensor:
    """Log-probabilities ``[rows, new, vocab]`` of the same positions from one forward pass."""
    mask = torch.cat([prompt_mask, prompt_mask.new_ones(len(text), new)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = new_cache(model, len(text))
    logits = model(
        input_ids=text, attention_mask=mask, position_ids=positions, past_key_values=cache
    ).logits
    return softmax(logits[:, -new - 1 : -1].float(), log=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=12)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    tokenizer = AutoTokenizer.from_pretrained(gguf_file().parent, gguf_file=gguf_file().name)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = tokenizer(list(OTHERS[: args.rows]), padding=True, return_tensors="pt")
    original = load(torch.float32)

    table = Table("backend", "KL(sampler || scorer) per token", "largest difference", "equal bits")
    for name, backend in (("stock", "inductor"), ("ours", "batch_invariant")):
        model = copy.deepcopy(original)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = None  # every row has as many steps
        compile_blocks(model, backend)
        with torch.no_grad():
            text, sampled = rollout(model, inputs, list(range(args.rows)), args.new_tokens)
            scored = score(model, text, inputs["attention_mask"], args.new_tokens)
        kl = (sampled.double().exp() * (sampled.double() - scored.double())).sum(-1).mean()
        gap = (sampled - scored).abs().max()
        table.add_row(name, f"{kl:.3g}", f"{gap:.3g}", str(torch.equal(sampled, scored)))
        torch.compiler.reset()
    Console().print(table)


if __name__ == "__main__":
    main()
