"""Mixed traffic against ``examples/serve.py`` from another process: one question, how many different answers?

python -m examples.serve --port 8000 &
python examples/load_test.py --url http://127.0.0.1:8000/v1 --requests 200
"""

import argparse
import json
import random
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

QUESTION = "What is the capital of France, and which river runs through it?"
WORDS = [
    "the",
    "sea",
    "a",
    "prime",
    "number",
    "of",
    "what",
    "compiler",
    "hello",
    "pancakes",
    "write",
    "explain",
    "list",
    "who",
    "and",
    "tell",
    "me",
]


def ask(url: str, body: dict[str, object]) -> str:
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def traffic(requests: int, seed: int = 0) -> list[dict[str, object]]:
    """The question as every second request, random prompts of random length between, in random order."""
    rng = random.Random(seed)
    bodies: list[dict[str, object]] = []
    for i in range(requests):
        others = " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))
        prompt = QUESTION if i % 2 == 0 else others
        new = 16 if i % 2 == 0 else rng.randint(1, 24)
        messages = [{"role": "user", "content": prompt}]
        bodies.append({"messages": messages, "max_tokens": new, "seed": 7, "temperature": 0.8})
    rng.shuffle(bodies)
    return bodies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args()
    bodies = traffic(args.requests)
    began = time.monotonic()
    with ThreadPoolExecutor(args.clients) as pool:
        answers = list(pool.map(lambda body: ask(args.url, body), bodies))
    spent = time.monotonic() - began
    ours = [
        a
        for a, body in zip(answers, bodies, strict=True)
        if body["messages"][0]["content"] == QUESTION
    ]
    print(f"{len(bodies)} requests in {spent:.1f} s; {len(ours)} of them one question")
    print(f"different answers to it: {len(set(ours))}")
    for answer in sorted(set(ours)):
        print(f"  {answer!r}")
    # an empty answer would agree with itself and prove nothing
    raise SystemExit(len(set(ours)) != 1 or "" in ours)


if __name__ == "__main__":
    main()
