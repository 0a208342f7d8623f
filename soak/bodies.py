"""What clients send."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

import brotli

from .settings import MAX_BODY_BYTES

PROMPTS = 24
"""Different ones: each is known after the warm-up, of each API and target, so that what is remembered grows no more."""
USERS = 50
TENANTS = 20
"""Each is known after the warm-up, too."""
WORDS = ("pod", "token", "cache", "waits", "asks", "has", "already", "another", "nobody", "for", "the", "a")


def prompt(rng: random.Random) -> str:
    """One of PROMPTS, some of which begin alike."""
    number = rng.randrange(PROMPTS)
    shared = random.Random(number % 6).choices(WORDS, k=400)
    own = random.Random(number).choices(WORDS, k=20 + 8 * number)
    return " ".join(shared + own)


def chat(rng: random.Random, model: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt(rng)}]
    return {"model": model, "messages": messages, "max_tokens": rng.randint(1, 20), **more}


def padded(size: int) -> bytes:
    """A chat of exactly *size* bytes, of which the prompt is a small part."""
    document = {"model": "qwq", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "pad": ""}
    return json.dumps({**document, "pad": "x" * (size - len(json.dumps(document)))}).encode()


AT_LIMIT = padded(MAX_BODY_BYTES)
OVER_LIMIT = padded(MAX_BODY_BYTES + 1)
BOMB = gzip.compress(padded(20 * MAX_BODY_BYTES))
"""Of 40 KB."""

ENCODERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
}


def form(model: str) -> tuple[str, bytes]:
    """(content type, body) of an audio transcription."""
    parts = [
        f'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n{model}\r\n'.encode(),
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + bytes(range(256)) * 40
        + b"\r\n",
        b"--b--\r\n",
    ]
    return "multipart/form-data; boundary=b", b"".join(parts)
