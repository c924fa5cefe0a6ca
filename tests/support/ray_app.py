# SPDX-License-Identifier: Apache-2.0
"""Serves an application on a Ray cluster of its own until it is terminated.

    python -m tests.support.ray_app '{"model": ..., "num_replicas": 1}' UP

When it is up it writes JSON to the file UP: `address` of the cluster, `url` of the endpoint,
`refused`, what was said of replicas that ask for a GPU.
"""

import json
import logging
import signal
import socket
import sys
import tempfile
from pathlib import Path

import ray
from ray import serve

from hygen_vllm.config import ConfigError
from hygen_vllm.ray_serving import build_app

LOOPBACK = "127.0.0.1"


def free_port():
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


def refusal(config):
    """Return why replicas with a GPU are refused here, None if they are not."""
    try:
        build_app({**config, "on_cpu": False})
    except ConfigError as error:
        return str(error)
    return None


def main():
    config = json.loads(sys.argv[1])
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hygen", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=2 * config["num_replicas"] + 2,
            num_gpus=0,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=True,
            _temp_dir=str(Path(folder).resolve()),
        )
        try:
            serve.start(http_options={"host": LOOPBACK, "port": port})
            refused = refusal(config)
            serve.run(build_app(config), name="default")
            address = ray.get_runtime_context().gcs_address
            up = {"address": address, "url": f"http://{LOOPBACK}:{port}", "refused": refused}
            path = Path(sys.argv[2])
            path.with_suffix(".new").write_text(json.dumps(up))
            path.with_suffix(".new").rename(path)
            signal.pause()
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
