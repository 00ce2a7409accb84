"""An OpenAI-style server whose answers do not depend on its traffic: SmolLM2 behind continuous batching.

    python -m examples.serve --port 8000
    curl localhost:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}], "seed": 7}'

``/v1/completions``, ``/v1/chat/completions`` and ``/v1/models``, with ``max_tokens``, ``seed``, ``temperature``,
``stream`` and ``logprobs``; what else would change an answer is refused by name. Standard library around
transformers' engine; ``examples/load_test.py`` sends mixed traffic from another process.
"""

import argparse
import itertools
import json
import os
import queue
import threading
from collections.abc import Iterator
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
from examples.openai_format import MODEL, Answer, BadRequest, error_body, read_request


class EngineError(RuntimeError):
    """What the client cannot change."""


class Engine:
    """transformers' continuous batching with seeded sampling; each request is an iterator of its outputs."""

    def __init__(self, model: PreTrainedModel, **config: Any) -> None:
        settings = {"page_size": 64, "num_blocks": 512, "max_batch_tokens": 512}
        settings |= {"max_requests_per_batch": 32, "use_async_batching": False}
        settings |= {"use_cuda_graph": False}
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(
                **settings | config, auto_switch_to_flash=False
            ),
        )
        PerRequestSampling().install(self._manager)
        text, pages = model.config.get_text_config(), self._manager.continuous_batching_config
        self._vocab = text.vocab_size
        # a request that never fits would end the engine for all
        self._longest = min(text.max_position_embeddings, pages.page_size * pages.num_blocks)
        self._waiting: dict[str, queue.SimpleQueue] = {}
        self._lock, self._count, self._stopped = threading.Lock(), 0, threading.Event()
        self._manager.start()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def outputs(self, ids: list[int], max_new_tokens: int, **request: Any) -> Iterator[Any]:
        """Yield a ``GenerationOutput`` after every token if ``streaming``, else one; leaving it early cancels."""
        if not all(0 <= i < self._vocab for i in ids):
            raise BadRequest(f"prompt has a token outside of 0 to {self._vocab - 1}")
        if len(ids) + max_new_tokens > self._longest:
            raise BadRequest(
                f"{len(ids)} prompt tokens and max_tokens {max_new_tokens} exceed {self._longest}"
            )
        name, made = self._register()
        try:
            self._manager.add_request(ids, name, max_new_tokens, **request)
            while True:
                output = made.get()
                if output is None or output.error:
                    raise EngineError(output.error if output else "the engine has stopped")
                yield output
                if output.is_finished():
                    break
        finally:
            with self._lock:
                unfinished = self._waiting.pop(name, None)
            if unfinished is not None:
                self._manager.cancel_request(name)

    def close(self) -> None:
        """Stop the engine; requests that wait get an error."""
        self._stopped.set()
        self._thread.join()
        self._manager.stop(block=True)

    def _register(self) -> tuple[str, queue.SimpleQueue]:
        with self._lock:
            if self._stopped.is_set():
                raise EngineError("the engine has stopped")
            self._count += 1
            name, made = f"request-{self._count}", queue.SimpleQueue()
            self._waiting[name] = made
        return name, made

    def _deliver(self) -> None:
        while not self._stopped.is_set():
            output = self._manager.get_result(timeout=0.2)
            if output is not None:
                self._hand_over(output)
            elif not self._manager.is_running():
                break
        with self._lock:
            self._stopped.set()
            for made in self._waiting.values():
                made.put(None)

    def _hand_over(self, output: Any) -> None:
        with self._lock:
            finished = output.is_finished()
            # a cancelled request is no longer there
            made = (self._waiting.pop if finished else self._waiting.get)(output.request_id, None)
        if made is not None:
            made.put(output)


def make_server(engine: Engine, tokenizer: Any, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server on localhost; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            else:
                self._send(404, error_body(f"no page {self.path}"))

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path not in ("/v1/completions", "/v1/chat/completions"):
                self._send(404, error_body(f"no page {self.path}"))
                return
            try:
                body = json.loads(text)
                ids, request = read_request(tokenizer, self.path, body)
                answer = Answer(tokenizer, body, chat=self.path.endswith("/chat/completions"))
                outputs = engine.outputs(ids, **request)
                # what fails before the first token has a status of its own
                first = next(outputs)
            except (BadRequest, json.JSONDecodeError) as error:
                self._send(400, error_body(str(error)))
            except EngineError as error:
                self._send(500, error_body(str(error), "server_error"))
            else:
                if request["streaming"]:
                    self._stream(answer, itertools.chain([first], outputs))
                    # a client that has gone needs no more tokens
                    outputs.close()
                else:
                    self._send(200, answer.whole(first))

        def _stream(self, answer: Answer, outputs: Iterator[Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-cache")
            # the end of the connection is the end of the answer
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for event in self._events(answer, outputs):
                    self.wfile.write(f"data: {event}\n\n".encode())
            except ConnectionError:
                self.close_connection = True

        def _events(self, answer: Answer, outputs: Iterator[Any]) -> Iterator[str]:
            try:
                for output in outputs:
                    yield from map(json.dumps, answer.chunks(output))
            except EngineError as error:
                yield json.dumps(error_body(str(error), "server_error"))
            yield "[DONE]"

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
    from examples.quickstart import gguf_file, load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--stock", action="store_true", help="torch's own kernels and attention, as a control"
    )
    args = parser.parse_args()
    file = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = load(getattr(torch, args.dtype))
    engine = Engine(model if args.stock else serving.prepare(model))
    with make_server(engine, tokenizer, args.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/v1 serves {MODEL}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            engine.close()


if __name__ == "__main__":
    main()
