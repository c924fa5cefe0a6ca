# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.support.dataset_job ADDRESS` runs a Ray Dataset through an application."""

import json
import sys

import ray

from hygen_vllm.batch.job import add_results, connect

CHAT = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0.0,
}
ROWS = [
    {"name": "chat", "url": "/v1/chat/completions", "body": {**CHAT, "max_tokens": 8}},
    {"name": "text", "url": "/v1/completions", "body": {"prompt": "One, two,", "max_tokens": 4}},
    {"name": "bad", "url": "/v1/embeddings", "body": {"prompt": "x"}},
]

if __name__ == "__main__":
    connect(sys.argv[1])
    rows = add_results(ray.data.from_items(ROWS)).take_all()
    sys.stdout.write(json.dumps({row["name"]: json.loads(row["result"]) for row in rows}))
