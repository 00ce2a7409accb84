"""An OpenAI-style server whose answers do not depend on its traffic: SmolLM2 behind continuous batching.

    python examples/serve.py --port 8000
    curl localhost:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}], "seed": 7}'

``/v1/completions``, ``/v1/chat/completions`` and ``/v1/models``, with ``max_tokens``, ``seed`` and ``temperature``.
``examples/load_test.py`` sends mixed traffic from another process. Standard library around transformers' engine.
"""

import argparse
import json
import os
import threading
import time
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import (
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
)

from bi_inductor import serving
from bi_inductor.sampling.transformers import PerRequestSampling

MODEL = "smollm2-135m-instruct"
#: stands for 0, which is no divisor: the likeliest token takes the whole mass
GREEDY = 1e-6


class Engine:
    """transformers' continuous batching with seeded sampling; one future per request."""

    def __init__(self, model: PreTrainedModel, **config: Any) -> None:
        settings = {"page_size": 64, "num_blocks": 512, "max_batch_tokens": 512}
        settings |= {"max_requests_per_batch": 32, "use_async_batching": False}
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(
                **settings | config, auto_switch_to_flash=False
            ),
        )
        PerRequestSampling().install(self._manager)
        self._waiting: dict[str, Future] = {}
        self._lock, self._count, self._stopped = threading.Lock(), 0, threading.Event()
        self._manager.start()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def submit(self, ids: list[int], **request: Any) -> Future:
        """Queue a prompt; the future holds the engine's ``GenerationOutput``."""
        future: Future = Future()
        with self._lock:
            name = f"request-{self._count}"
            self._count += 1
            self._waiting[name] = future
        self._manager.add_request(ids, request_id=name, **request)
        return future

    def close(self) -> None:
        """Stop the engine; requests that wait get an error."""
        self._stopped.set()
        self._thread.join()
        self._manager.stop(block=True)

    def _deliver(self) -> None:
        while not self._stopped.is_set():
            output = self._manager.get_result(timeout=0.2)
            if output is not None and output.is_finished():
                self._waiting.pop(output.request_id).set_result(output)
            elif not self._manager.is_running():
                break
        for future in self._waiting.values():
            future.set_exception(RuntimeError("the engine has stopped"))


class BadRequest(ValueError):
    """What the client has to change."""


def read_request(
    tokenizer: Any, path: str, body: dict[str, Any]
) -> tuple[list[int], dict[str, Any]]:
    """Prompt tokens and engine arguments of an OpenAI request."""
    if body.get("stream") or body.get("n", 1) != 1:
        raise BadRequest("stream and n > 1 are not served; send one request per answer")
    # 0 asks /completions for those of the chosen tokens, and 0 == False
    wanted = body.get("logprobs")
    if not (wanted is None or wanted is False) or body.get("top_logprobs"):
        raise BadRequest("logprobs are not served; leave the field out")
    if path.endswith("/chat/completions"):
        if not body.get("messages"):
            raise BadRequest("messages is missing or empty")
        ids = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_dict=True
        )["input_ids"]
    else:
        prompt = body.get("prompt")
        ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise BadRequest("prompt must be a text or a list of token numbers with at least one token")
    temperature, seed = body.get("temperature", 0), body.get("seed", 0)
    new = body.get("max_tokens", 16)
    if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 10:
        raise BadRequest(f"temperature must be between 0 and 10, got {temperature!r}")
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        raise BadRequest(f"seed must be a 64-bit integer, got {seed!r}")
    if type(new) is not int or not 1 <= new <= 4096:
        raise BadRequest(f"max_tokens must be between 1 and 4096, got {new!r}")
    heat = float(temperature) or GREEDY
    eos = getattr(tokenizer, "eos_token_id", None)
    request = {"max_new_tokens": new, "seed": seed, "temperature": max(heat, GREEDY)}
    return ids, request | ({} if eos is None else {"eos_token_id": eos})


def make_server(engine: Engine, tokenizer: Any, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server on localhost; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            else:
                self._error(404, f"no page {self.path}")

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path not in ("/v1/completions", "/v1/chat/completions"):
                self._error(404, f"no page {self.path}")
                return
            try:
                body = json.loads(text)
                if not isinstance(body, dict):
                    raise BadRequest("the body must be a JSON object")
                ids, request = read_request(tokenizer, self.path, body)
            except (BadRequest, json.JSONDecodeError) as error:
                self._error(400, str(error))
                return
            output = engine.submit(ids, **request).result()
            if output.error:
                self._error(400, output.error)
                return
            self._send(200, self._answer(output))

        def _answer(self, output: Any) -> dict[str, Any]:
            tokens = output.generated_tokens
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            chat = self.path.endswith("/chat/completions")
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            used = {"prompt_tokens": len(output.prompt_ids), "completion_tokens": len(tokens)}
            ended = (
                "stop" if tokens[-1:] == [getattr(tokenizer, "eos_token_id", None)] else "length"
            )
            return {
                "id": output.request_id,
                "object": "chat.completion" if chat else "text_completion",
                "created": int(time.time()),
                "model": MODEL,
                "choices": [{"index": 0, "finish_reason": ended, **said}],
                "usage": used | {"total_tokens": sum(used.values())},
            }

        def _error(self, status: int, message: str) -> None:
            self._send(status, {"error": {"message": message, "type": "invalid_request_error"}})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Quiet: one line per request is the load test's business."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    from quickstart import gguf_file, load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--backend", choices=("batch_invariant", "inductor"), default="batch_invariant"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    file = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = serving.prepare(load(getattr(torch, args.dtype)), backend=args.backend)
    engine = Engine(model)
    with make_server(engine, tokenizer, args.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/v1 serves {MODEL}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            engine.close()


if __name__ == "__main__":
    main()
