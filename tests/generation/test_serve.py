"""``examples/serve.py`` over real HTTP: OpenAI's shapes, one answer in any traffic, streamed or not, readable errors."""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bi_inductor import serving
from bi_inductor.sampling import TokenLogprob, token_logprobs
from examples.openai_format import Answer
from examples.serve import Engine, make_server
from tests.generation.decoders import decoder, in_mode, prompts


class Numbers:
    """A tokenizer whose text is its token numbers."""

    eos_token_id = None

    def __call__(self, text):
        return {"input_ids": [int(word) for word in text.split()]}

    def apply_chat_template(self, messages, **_):
        return self(messages[-1]["content"])

    def decode(self, tokens, **_):
        return " ".join(map(str, tokens))


#: seconds for an answer, the compiling of a cold machine included
WAIT = 500


class Server:
    """The example over HTTP: ``post`` gives status and JSON, ``stream`` the events."""

    def __init__(self, model):
        self.engine = Engine(model, page_size=32, num_blocks=64)
        self._server = make_server(self.engine, Numbers())
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _open(self, path, body):
        url = f"http://127.0.0.1:{self.port}/v1/{path}"
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(url, data), timeout=WAIT)

    def post(self, path, body):
        try:
            with self._open(path, body) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stream(self, path, body):
        with self._open(path, {**body, "stream": True}) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            events = answer.read().decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.engine.close()


@pytest.fixture(autouse=True)
def _clean():
    """No reset of Dynamo: the model of all tests keeps what it compiled."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def server():
    torch.compiler.reset()
    made = Server(serving.prepare(decoder()))
    yield made
    made.close()


@pytest.fixture
def ask(server):
    return server.post


def body(prompt, **more):
    return {"prompt": prompt, "max_tokens": 5, "seed": 7, "temperature": 0.9, **more}


def test_answers_have_the_shape_of_the_api(ask):
    status, answer = ask("completions", body("5 6 7"))
    assert status == 200
    assert answer["object"] == "text_completion"
    assert len(answer["choices"][0]["text"].split()) == 5
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    chat = {"messages": [{"role": "user", "content": "5 6 7"}], "seed": 7, "temperature": 0.9}
    status, said = ask("chat/completions", {**chat, "max_tokens": 5})
    assert status == 200
    assert said["choices"][0]["message"]["content"] == answer["choices"][0]["text"]
    assert ask("models", None)[1]["data"][0]["object"] == "model"


def test_a_seed_has_one_answer_in_any_traffic(ask):
    question, *others = (p[0].tolist() for p in prompts(40, 3, 70, 11))
    alone = ask("completions", body(question))[1]["choices"][0]["text"]
    with ThreadPoolExecutor(8) as pool:
        mixed = pool.map(lambda p: ask("completions", body(p)), [question, *others] * 4)
        texts = [answer["choices"][0]["text"] for _, answer in mixed]
    assert set(texts[:: 1 + len(others)]) == {alone}
    assert ask("completions", body(question, seed=8))[1]["choices"][0]["text"] != alone


CHAT = {"messages": [{"role": "user", "content": "5 6 7"}]}


@pytest.mark.parametrize(
    ("path", "sent", "status", "message"),
    [
        ("completions", {"prompt": []}, 400, "at least one token"),
        ("completions", {"prompt": [5, 10**6]}, 400, "outside of 0 to"),
        ("completions", {"prompt": [5] * 2040, "max_tokens": 9}, 400, "exceed 2048"),
        ("completions", {"prompt": "5", "stream": "yes"}, 400, "stream must be true or false"),
        ("completions", {"prompt": "5", "stream_options": 1}, 400, "stream_options must be"),
        ("completions", {"prompt": "5", "logprobs": 21}, 400, "logprobs must be between"),
        ("completions", {"prompt": "5", "logprobs": True}, 400, "logprobs must be between"),
        ("completions", {"prompt": "5", "n": 2}, 400, "n is not served"),
        ("completions", {"prompt": "5", "stop": "x"}, 400, "stop is not served"),
        ("completions", ["prompt"], 400, "must be a JSON object"),
        ("completions", {"prompt": "5", "temperature": -1}, 400, "temperature must be"),
        ("completions", {"prompt": "5", "seed": "x"}, 400, "seed must be"),
        ("completions", {"prompt": "5", "max_tokens": 0}, 400, "max_tokens must be"),
        ("chat/completions", {}, 400, "messages"),
        ("chat/completions", {"messages": ["hello"]}, 400, "a role and a content"),
        ("chat/completions", {**CHAT, "logprobs": 3}, 400, "logprobs must be true or false"),
        ("chat/completions", {**CHAT, "top_logprobs": 3}, 400, "needs logprobs: true"),
        ("nothing", {}, 404, "no page"),
    ],
)
def test_bad_requests_are_answered(ask, path, sent, status, message):
    code, answer = ask(path, sent)
    assert code == status
    assert message in answer["error"]["message"]


def test_streamed_texts_and_logprobs_are_those_of_the_whole_answer(server):
    whole = server.post("completions", body("5 6 7", logprobs=2))[1]
    *events, last = server.stream(
        "completions", body("5 6 7", logprobs=2, stream_options={"include_usage": True})
    )
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    parts = [event["choices"][0] for event in events]
    assert "".join(part["text"] for part in parts) == whole["choices"][0]["text"]
    assert [part["finish_reason"] for part in parts] == [None] * 4 + ["length"]
    for name, of_whole in whole["choices"][0]["logprobs"].items():
        assert len(of_whole) == 5
        assert [x for part in parts for x in part["logprobs"][name]] == of_whole


def test_a_streamed_chat_begins_with_the_role_and_ends_with_the_reason(server):
    chat = {**body(None), **CHAT, "logprobs": True, "top_logprobs": 2}
    whole = server.post("chat/completions", chat)[1]["choices"][0]
    events = server.stream("chat/completions", chat)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    first, *parts = [event["choices"][0] for event in events]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(part["delta"]["content"] for part in parts) == whole["message"]["content"]
    assert [part["finish_reason"] for part in parts] == [None] * 4 + ["length"]
    told = [entry for part in parts for entry in part["logprobs"]["content"]]
    assert told == whole["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in told] == [2] * 5


def test_a_request_has_one_list_of_logprobs_in_any_traffic_and_it_is_that_of_the_model(server):
    question, *others = (p[0].tolist() for p in prompts(40, 3, 70, 11))
    asked = body(question, logprobs=3)

    def logprobs(parts):
        return tuple(x for part in parts for x in part["logprobs"]["token_logprobs"])

    def streamed(request):
        return [event["choices"][0] for event in server.stream("completions", request)]

    def whole(request):
        return server.post("completions", request)[1]["choices"]

    (alone,) = whole(asked)
    with ThreadPoolExecutor(8) as pool:
        noise = [pool.submit(whole, body(p, max_tokens=9)) for p in others * 4]
        made = [pool.submit(way, asked) for way in (whole, streamed) * 4]
        told = {logprobs(future.result()) for future in made}
        assert all(future.result() for future in noise)
    assert told == {logprobs([alone])}

    tokens = [int(token) for token in alone["logprobs"]["tokens"]]
    with torch.no_grad():
        model = in_mode(decoder())
        text = torch.tensor([question + tokens])
        logits = model(input_ids=text, use_cache=False).logits[0, -6:-1]
    notes = token_logprobs(logits, torch.tensor(tokens), [3] * 5)
    assert alone["logprobs"]["token_logprobs"] == [n.logprob for n in notes]
    expected = [{str(token): logprob for token, logprob in n.top} for n in notes]
    assert alone["logprobs"]["top_logprobs"] == expected


def test_a_client_that_leaves_ends_its_request(server):
    cancelled = threading.Event()
    cancel = server.engine._manager.cancel_request

    def noting(name):
        cancel(name)
        cancelled.set()

    server.engine._manager.cancel_request = noting
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
    asked = {**body("5 6 7", max_tokens=1900), "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(asked))
    answer = connection.getresponse()
    answer.readline()
    answer.close()
    connection.close()
    assert cancelled.wait(WAIT)
    scheduler = server.engine._manager.batch_processor.scheduler
    until = time.monotonic() + WAIT
    while scheduler.active_requests and time.monotonic() < until:
        time.sleep(0.02)
    assert not scheduler.active_requests
    assert not server.engine._waiting
    assert server.post("completions", body("5 6 7"))[0] == 200


def test_an_engine_that_fails_says_so_in_the_stream_and_by_status():
    model, steps = serving.prepare(decoder(), backend=None), []
    forward = model.forward

    def failing(*args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("out of luck")
        return forward(*args, **kwargs)

    model.forward = failing
    server = Server(model)
    try:
        *parts, error = server.stream("completions", body("5 6 7"))
        assert len(parts) == 2
        assert error["error"] == {"message": "out of luck", "type": "server_error"}
        status, answer = server.post("completions", body("5 6 7"))
        assert (status, answer["error"]["message"]) == (500, "the engine has stopped")
    finally:
        server.close()


def test_a_letter_of_several_tokens_is_sent_whole():
    class Bytes:
        eos_token_id = 0

        def decode(self, tokens, **_):
            return bytes(tokens).decode(errors="replace")

    class Output:
        request_id, prompt_ids = "request-1", (1,)

        def __init__(self, tokens, count):
            self.generated_tokens, self._finished = list(tokens[:count]), count == len(tokens)
            self.logprobs = [TokenLogprob(t, -float("inf"), ()) for t in self.generated_tokens]

        def is_finished(self):
            return self._finished

    tokens = "n\u00e9\N{EURO SIGN}".encode()
    answer = Answer(Bytes(), {}, chat=True)
    chunks = [c for n in range(1, 7) for c in answer.chunks(Output(tokens, n))]
    choices = [chunk["choices"][0] for chunk in chunks[1:]]
    texts = [c["delta"].get("content") for c in choices]
    assert texts == ["n", None, "\u00e9", None, None, "\N{EURO SIGN}"]
    entries = [c["logprobs"]["content"][0] for c in choices]
    assert [e["bytes"] for e in entries] == [[110], None, None, None, None, None]
    assert {e["logprob"] for e in entries} == {-9999.0}
