# SPDX-License-Identifier: Apache-2.0
"""An OpenAI request as it travels: where to, with which body, and what it says of itself. Pure."""

import hashlib
import json
from dataclasses import dataclass

from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.labels import LABEL_KEY, RequestClass, tenant_of

URLS = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
"""Method of a replica by the endpoint."""
XARGS = "vllm_xargs"
INVALID = "invalid_request_error"
"""Type of the error of a request that can never be served."""
GIVEN_UP = "request_given_up"
"""Type of the error of a request that ended engines, or that replicas failed with, often enough."""
IDENTITY = ("model", "cache_salt", "tools")
"""Fields of a body without which equal texts are not equal prompts."""
CHUNK_CHARACTERS = 256
MOST_CHUNKS = 256
CHARACTERS_PER_TOKEN = 4.0
DEFAULT_OUTPUT_TOKENS = 256
MOST_OUTPUT_TOKENS = 10_000_000
"""What a client says beyond that is not believed."""


def problem_of(url: object, body: object) -> str:
    """Return why there is no OpenAiRequest with such an endpoint and body, "" if there is."""
    if not isinstance(url, str) or url not in URLS:
        return f"url must be one of {', '.join(URLS)}, got {url!r:.100}"
    return "" if isinstance(body, dict) else "body must be an object"


@dataclass(frozen=True)
class OpenAiRequest:
    """One request.

    Args:
        url: one of URLS.
        body: of the HTTP request.
    """

    url: str
    body: Json

    @property
    def method(self) -> str:
        """The method of a replica that serves it."""
        return URLS[self.url]

    @property
    def labels(self) -> JsonView:
        """What the client says to the scheduler."""
        given = self.body.get(XARGS)
        return given if isinstance(given, dict) else {}

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return tenant_of(self.labels)

    @property
    def text(self) -> str:
        """What the prompt consists of, in the order of its tokens."""
        prompt = self.body.get("prompt", self.body.get("messages", ""))
        return prompt if isinstance(prompt, str) else json.dumps(prompt, default=str)

    @property
    def tokens(self) -> float:
        """About how many tokens it will have, prompt and output."""
        most = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        if not isinstance(most, int) or not 0 < most <= MOST_OUTPUT_TOKENS:
            most = DEFAULT_OUTPUT_TOKENS
        return len(self.text) / CHARACTERS_PER_TOKEN + most

    def prefix_hashes(self) -> list[bytes]:
        """Return chained hashes of the text, one a chunk: equal ones stand for equal beginnings."""
        salt = [self.body.get(name) for name in IDENTITY]
        chained = hashlib.sha1(repr(salt).encode(), usedforsecurity=False)
        hashes = []
        text = self.text
        end = min(len(text) - CHUNK_CHARACTERS + 1, MOST_CHUNKS * CHUNK_CHARACTERS)
        for start in range(0, end, CHUNK_CHARACTERS):
            chained.update(text[start : start + CHUNK_CHARACTERS].encode(errors="replace"))
            hashes.append(chained.digest())
        return hashes

    def as_offline(self) -> "OpenAiRequest":
        """Return it labelled offline, to be answered at once."""
        labels = {**self.labels, LABEL_KEY: RequestClass.OFFLINE.value}
        body = {**self.body, XARGS: labels, "stream": False}
        body.pop("stream_options", None)  # vLLM refuses them for what is no stream
        return OpenAiRequest(self.url, body)


def error_of(message: str, code: int, kind: str = "server_error") -> Json:
    """Return the result of a request that failed, in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
