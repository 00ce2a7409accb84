"""``examples/serve.py`` over real HTTP: OpenAI's shapes, one answer in any traffic, errors a client can read."""

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from bi_inductor import serving
from examples.serve import Engine, make_server
from tests.generation.decoders import decoder, prompts


class Numbers:
    """A tokenizer whose text is its token numbers."""

    eos_token_id = None

    def __call__(self, text):
        return {"input_ids": [int(word) for word in text.split()]}

    def apply_chat_template(self, messages, **_):
        return self(messages[-1]["content"])

    def decode(self, tokens, **_):
        return " ".join(map(str, tokens))


@pytest.fixture(scope="module")
def ask():
    # the attention of the server is under test here, not the compiler
    engine = Engine(serving.prepare(decoder(), backend=None), page_size=32, num_blocks=64)
    server = make_server(engine, Numbers())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def post(path, body):
        url = f"http://127.0.0.1:{server.server_port}/v1/{path}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    yield post
    server.shutdown()
    thread.join()
    server.server_close()
    engine.close()


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


@pytest.mark.parametrize(
    ("path", "sent", "status", "message"),
    [
        ("completions", {"prompt": []}, 400, "at least one token"),
        ("completions", {"prompt": "5", "stream": True}, 400, "stream"),
        ("completions", {"prompt": "5", "logprobs": 0}, 400, "logprobs"),
        ("completions", {"prompt": "5", "temperature": -1}, 400, "temperature must be"),
        ("completions", {"prompt": "5", "seed": "x"}, 400, "seed must be"),
        ("completions", {"prompt": "5", "max_tokens": 0}, 400, "max_tokens must be"),
        ("chat/completions", {}, 400, "messages"),
        ("nothing", {}, 404, "no page"),
    ],
)
def test_bad_requests_are_answered(ask, path, sent, status, message):
    code, answer = ask(path, sent)
    assert code == status
    assert message in answer["error"]["message"]
