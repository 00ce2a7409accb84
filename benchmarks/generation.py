"""Tokens per second of generate and of continuous batching on SmolLM2, ours against stock; the cost of padding.

    python -m benchmarks.generation [--device cpu|cuda] [--dtype float32|bfloat16] [--threads N]
                                    [--only generate|completions] [--completions N] [--stock-completions N]
                                    [--cuda-graphs engine|on|off] [--backends ours|stock|both] [--random]

The repeated block is compiled, as in examples/quickstart.py. ``--completions N`` asks one question N times among N
other requests, and counts the different answers; with ``--stock-completions`` the control runs fewer. ``--random``
needs no model on the disk: the same sizes with random weights.
"""

import argparse
import copy
import functools
import random
import time
import warnings

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.timing import interleaved, markdown
from bi_inductor import serving
from bi_inductor.generation import generate
from examples import quickstart

BACKENDS = {"stock": "inductor", "ours": "batch_invariant"}
PROMPT, NEW, VOCAB = 64, 16, 49152


def random_model(dtype):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def prompt(length, seed):
    return torch.randint(3, VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


def batch(lengths, device):
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, -length:], mask[row, -length:] = prompt(length, row)[0], 1
    return ids.to(device), mask.to(device)


def model_for(loaded, prepare, backend):
    model = copy.deepcopy(loaded)
    prepare(model, backend)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def generated(model, ids, mask):
    cache = quickstart.new_cache(model, len(ids))
    with torch.inference_mode():
        made = generate(model, ids, mask, past_key_values=cache, max_new_tokens=NEW)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return made


def generate_models(loaded):
    return {
        name: model_for(loaded, quickstart.compile_blocks, backend)
        for name, backend in BACKENDS.items()
    }


def generate_table(models):
    rows = []
    for size in (1, 8):
        ids, mask = batch([PROMPT] * size, models["ours"].device)
        times = interleaved(
            {
                name: functools.partial(generated, model, ids, mask)
                for name, model in models.items()
            },
            rounds=15,
            seconds=20,
        )
        speed = {name: size * NEW / t for name, t in times.items()}
        rows.append(
            (
                size,
                f"{speed['stock']:.1f}",
                f"{speed['ours']:.1f}",
                f"{speed['ours'] / speed['stock']:.2f}",
            )
        )
    print(markdown(("rows", "stock tokens/s", "ours tokens/s", "speed / stock"), rows))


def padding(model):
    """The same width and the same work, with and without a mask that hides half of most rows."""
    ids, mask = batch([PROMPT] * 8, model.device)
    _, padded = batch([PROMPT] + [PROMPT // 2] * 7, model.device)
    times = interleaved(
        {
            "full": lambda: generated(model, ids, mask),
            "padded": lambda: generated(model, ids, padded),
        },
        rounds=15,
        seconds=20,
    )
    print(
        f"\nPadding: 8 rows with 7 of them half padding take {times['padded'] / times['full']:.2f} "
        "of the time of 8 full rows."
    )


def completions(loaded, counts, graphs):
    """One row a backend: the question ``counts[name]`` times among as many other requests, in random order."""
    rows = []
    for name in counts:
        backend = BACKENDS[name]
        prepare = serving.prepare if name == "ours" else _stock
        model = model_for(loaded, prepare, backend)
        question, requests = traffic(counts[name])
        run = engine_settings(use_cuda_graph={"engine": None, "on": True, "off": False}[graphs])
        model.generate_batch(requests[:64], **run)
        began = time.perf_counter()
        outputs = model.generate_batch(requests, **run).values()
        spent = time.perf_counter() - began
        if failed := [o for o in outputs if o.error or len(o.generated_tokens) != NEW]:
            raise SystemExit(f"{name}: {len(failed)} requests failed: {failed[0].error}")
        answers = [o for o in outputs if o.prompt_ids == question]
        rows.append(
            (
                name,
                f"{len(requests) * NEW / spent:.1f}",
                len(answers),
                len({tuple(o.generated_tokens) for o in answers}),
                len({tuple(o.logprobs) for o in answers}),
            )
        )
    print(
        markdown(
            (
                "continuous batching",
                "tokens/s",
                "completions of one prompt",
                "different texts",
                "different log-probabilities",
            ),
            rows,
        )
    )


def traffic(count):
    question = prompt(PROMPT, 0)[0].tolist()
    rng = random.Random(0)
    requests = [question] * count
    requests += [prompt(rng.randint(1, 2 * PROMPT), i)[0].tolist() for i in range(1, count + 1)]
    rng.shuffle(requests)
    return question, requests


def engine_settings(**config):
    return {
        "generation_config": GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1),
        "continuous_batching_config": ContinuousBatchingConfig(
            page_size=64,
            num_blocks=256,
            max_batch_tokens=256,
            max_requests_per_batch=32,
            return_logprobs=True,
            use_async_batching=False,
            auto_switch_to_flash=False,
            **config,
        ),
        "warmup": False,
    }


def _stock(model, backend):
    for module in (*model.model.layers, model.model.norm, model.model.rotary_emb, model.lm_head):
        module.forward = torch.compile(module.forward, backend=backend, dynamic=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("generate", "completions"))
    parser.add_argument("--completions", type=int, default=64)
    parser.add_argument("--stock-completions", type=int, help="default: as many as ours")
    parser.add_argument(
        "--cuda-graphs", choices=("engine", "on", "off"), default="engine", help="the engine's own"
    )
    parser.add_argument("--backends", choices=("both", *BACKENDS), default="both")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--random", action="store_true", help="SmolLM2's sizes, random weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    load = random_model if args.random else quickstart.load
    loaded = load(getattr(torch, args.dtype)).to(args.device)
    weights = "random weights" if args.random else "SmolLM2"
    print(
        f"{args.device}, {args.dtype}, {args.threads} threads, {weights}, prompt {PROMPT}, {NEW} new tokens\n"
    )
    if args.only != "completions":
        models = generate_models(loaded)
        generate_table(models)
        padding(models["ours"])
        print()
    if args.only != "generate":
        fewer = args.stock_completions
        stock = args.completions if fewer is None else fewer
        counts = {"stock": stock, "ours": args.completions}
        if args.backends != "both":
            counts = {args.backends: counts[args.backends]}
        completions(loaded, counts, args.cuda_graphs)


if __name__ == "__main__":
    main()
