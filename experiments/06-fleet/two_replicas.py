# SPDX-License-Identifier: Apache-2.0
"""Two replicas on Ray: chat with one, run a batch beside it, read the results.

    python experiments/06-fleet/two_replicas.py       # or: make demo-ray

On two CPU cores, in about 3 minutes, with 8 GiB.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from small_app import HOST, MODEL, our_application, ray_cluster

ROWS = 40


def chat(url: str, text: str) -> str:
    """Return the answer to an online request."""
    messages = [{"role": "user", "content": text}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 16, "temperature": 0.0}
    response = httpx.post(url, json=body, timeout=60.0).raise_for_status()
    answer: str = response.json()["choices"][0]["message"]["content"]
    return answer


def write_batch(path: Path) -> None:
    """Write requests in OpenAI's batch format."""
    texts = [f"Write one sentence about the number {i}." for i in range(ROWS)]
    rows = [
        {
            "custom_id": f"row-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": text}], "max_tokens": 24},
        }
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8124)
    port = parser.parse_args().port
    url = f"http://{HOST}:{port}/v1/chat/completions"
    with ray_cluster(port) as address, tempfile.TemporaryDirectory() as name:
        from ray import serve

        print("starting two replicas", flush=True)
        serve.run(our_application(), name="default")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        print(f"online: {chat(url, 'What is the capital of France?')}", flush=True)
        folder = Path(name)
        write_batch(folder / "in.jsonl")
        command = [sys.executable, "-m", "hygen_vllm.lab.cli", "batch", "run", folder / "in.jsonl"]
        job = subprocess.Popen([*command, "--out", folder / "out.jsonl", "--address", address])
        num_online = 0
        while job.poll() is None:
            chat(url, f"What is {num_online} plus one?")
            num_online += 1
        print(f"{num_online} more online requests were answered meanwhile")
        first = json.loads((folder / "out.jsonl").read_text().splitlines()[0])
        text = first["response"]["body"]["choices"][0]["message"]["content"]
        print(f"first result: {first['custom_id']}: {text}")
    sys.exit(job.returncode)


if __name__ == "__main__":
    main()
