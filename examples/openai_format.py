"""Requests and answers in OpenAI's format, for ``examples/serve.py``: no model, no sockets."""

import time
from collections.abc import Iterator
from typing import Any

from bi_inductor.sampling import TokenLogprob

MODEL = "smollm2-135m-instruct"
#: fields that would change the answer, with the values that ask for nothing
NOT_SERVED = {
    "n": (1,), "best_of": (1,), "top_p": (1,), "stop": ([],), "echo": (False,), "suffix": ("",),
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "tools": ([],),
    "response_format": ({"type": "text"},),
}  # fmt: skip
MOST_LOGPROBS = 20


class BadRequest(ValueError):
    """What the client has to change."""


def read_request(
    tokenizer: Any, path: str, body: dict[str, Any]
) -> tuple[list[int], dict[str, Any]]:
    """Prompt tokens and engine arguments of an OpenAI request."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest(f"stream_options must be an object, got {options!r}")
    for name, plain in NOT_SERVED.items():
        if body.get(name) is not None and body[name] not in plain:
            raise BadRequest(f"{name} is not served; leave the field out")
    chat = path.endswith("/chat/completions")
    ids = _chat_prompt(tokenizer, body) if chat else _prompt(tokenizer, body)
    # one answer by default: OpenAI's are temperature 1 and a seed at random
    temperature, seed = _given(body, "temperature", 0), _given(body, "seed", 0)
    new = _given(body, "max_completion_tokens", _given(body, "max_tokens", 16))
    if type(temperature) not in (int, float) or not 0 <= temperature <= 10:
        raise BadRequest(f"temperature must be between 0 and 10, got {temperature!r}")
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        raise BadRequest(f"seed must be a 64-bit integer, got {seed!r}")
    if type(new) is not int or not 1 <= new <= 4096:
        raise BadRequest(f"max_tokens must be between 1 and 4096, got {new!r}")
    request = {"max_new_tokens": new, "seed": seed, "temperature": float(temperature)}
    request["streaming"] = _flag(body, "stream")
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        request["eos_token_id"] = eos
    count = _logprobs_of_chat(body) if chat else body.get("logprobs")
    if count is not None:
        if type(count) is not int or not 0 <= count <= MOST_LOGPROBS:
            raise BadRequest(f"logprobs must be between 0 and {MOST_LOGPROBS}, got {count!r}")
        request["logprobs"] = count
    return ids, request


def _prompt(tokenizer: Any, body: dict[str, Any]) -> list[int]:
    prompt = body.get("prompt")
    ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise BadRequest("prompt must be a text or a list of token numbers with at least one token")
    return ids


def _chat_prompt(tokenizer: Any, body: dict[str, Any]) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages is missing or empty")
    for said in messages:
        if not isinstance(said, dict) or not all(
            isinstance(said.get(part), str) for part in ("role", "content")
        ):
            raise BadRequest("each of messages must have a role and a content, both texts")
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]


def _logprobs_of_chat(body: dict[str, Any]) -> int | None:
    if _flag(body, "logprobs"):
        return _given(body, "top_logprobs", 0)
    if body.get("top_logprobs"):
        raise BadRequest("top_logprobs needs logprobs: true")
    return None


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise BadRequest(f"{name} must be true or false, got {value!r}")
    return bool(value)


def _given(body: dict[str, Any], name: str, default: Any) -> Any:
    value = body.get(name)
    return default if value is None else value


class Answer:
    """One request's outputs in the format of the API: whole, or the part that is new since the last one."""

    def __init__(self, tokenizer: Any, body: dict[str, Any], chat: bool) -> None:
        self._tokenizer, self._chat = tokenizer, chat
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._text, self._tokens = "", 0

    def whole(self, output: Any) -> dict[str, Any]:
        text, logprobs = self._new(output)
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = self._choice(said, logprobs, self._ended(output))
        return self._envelope(output, [choice]) | {"usage": usage(output)}

    def chunks(self, output: Any) -> Iterator[dict[str, Any]]:
        """The events of an output: the role before the first text of a chat, the reason with the last one."""
        if self._chat and self._tokens == 0:
            role = {"delta": {"role": "assistant", "content": ""}}
            yield self._envelope(output, [self._choice(role, None, None)], chunk=True)
        text, logprobs = self._new(output)
        ended = self._ended(output)
        if text or logprobs or ended:
            said = {"delta": {"content": text} if text else {}} if self._chat else {"text": text}
            yield self._envelope(output, [self._choice(said, logprobs, ended)], chunk=True)
        if ended and self._with_usage:
            yield self._envelope(output, [], chunk=True) | {"usage": usage(output)}

    def _new(self, output: Any) -> tuple[str, dict[str, Any] | None]:
        text = self._decode(output.generated_tokens)
        if not output.is_finished():
            # the bytes of one letter can be spread over tokens
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        new, at = text[len(self._text) :], self._tokens
        notes = output.logprobs[at:]
        logprobs = None
        if notes:
            logprobs = self._chat_logprobs(notes) if self._chat else self._logprobs(output, at)
        self._text, self._tokens = self._text + new, len(output.generated_tokens)
        return new, logprobs

    def _decode(self, tokens: list[int], special: bool = False) -> str:
        return self._tokenizer.decode(
            tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )

    def _chat_logprobs(self, notes: list[TokenLogprob]) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            text = self._decode([token], special=True)
            # part of a letter has no text of its own
            known = "\N{REPLACEMENT CHARACTER}" not in text
            bytes_ = list(text.encode()) if known else None
            return {"token": text, "logprob": finite(logprob), "bytes": bytes_}

        return {
            "content": [
                entry(n.token, n.logprob) | {"top_logprobs": [entry(*pair) for pair in n.top]}
                for n in notes
            ]
        }

    def _logprobs(self, output: Any, at: int) -> dict[str, Any]:
        notes = output.logprobs[at:]
        ends = range(at, len(output.generated_tokens))
        return {
            "tokens": [self._decode([n.token], special=True) for n in notes],
            "token_logprobs": [finite(n.logprob) for n in notes],
            # of two tokens with one text the likelier stays
            "top_logprobs": [
                {self._decode([t], special=True): finite(p) for t, p in reversed(n.top)}
                for n in notes
            ],
            "text_offset": [len(self._decode(output.generated_tokens[:end])) for end in ends],
        }

    def _choice(
        self, said: dict[str, Any], logprobs: dict[str, Any] | None, ended: str | None
    ) -> dict[str, Any]:
        return {"index": 0, **said, "logprobs": logprobs, "finish_reason": ended}

    def _ended(self, output: Any) -> str | None:
        if not output.is_finished():
            return None
        eos = getattr(self._tokenizer, "eos_token_id", None)
        return "stop" if output.generated_tokens[-1:] == [eos] else "length"

    def _envelope(
        self, output: Any, choices: list[dict[str, Any]], chunk: bool = False
    ) -> dict[str, Any]:
        kind = "chat.completion" + ".chunk" * chunk if self._chat else "text_completion"
        return {
            "id": output.request_id,
            "object": kind,
            "created": int(time.time()),
            "model": MODEL,
            "choices": choices,
        }


def error_body(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The body of an answer that failed, and the event of a stream that did."""
    return {"error": {"message": message, "type": kind}}


def usage(output: Any) -> dict[str, int]:
    used = {
        "prompt_tokens": len(output.prompt_ids),
        "completion_tokens": len(output.generated_tokens),
    }
    return used | {"total_tokens": sum(used.values())}


def finite(logprob: float) -> float:
    """JSON has no infinity; the number is OpenAI's."""
    return max(logprob, -9999.0)
