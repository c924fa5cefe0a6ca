# SPDX-License-Identifier: Apache-2.0
"""Serves an application on a Ray cluster of its own until it is terminated.

    python -m tests.support.ray_app '{"model": ..., "num_replicas": 1}' UP

When it is up it writes JSON to the file UP: `address` of the cluster, `url` of the endpoint,
`refused`, what was said of replicas that ask for a GPU; and again each second, `running`, the
replicas that run, and `pool`, what the pool says. A number in the file UP.replicas is how many
there are to be from then on.
"""

import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray import serve

from hygen_vllm.batch.job import pool_status
from hygen_vllm.config import ConfigError
from hygen_vllm.ray_serving import build_app
from tests.support.processes import reserved_port

LOOPBACK = "127.0.0.1"


def refusal(config):
    """Return why replicas with a GPU are refused here, None if they are not."""
    try:
        build_app({**config, "on_cpu": False})
    except ConfigError as error:
        return str(error)
    return None


def keep_up(config, up, path):
    """Tell how many replicas run, and change how many there are to be."""
    wanted = path.with_suffix(".replicas")
    while True:
        if wanted.exists():
            num_replicas = int(wanted.read_text())
            wanted.unlink()
            serve.run(build_app({**config, "num_replicas": num_replicas}), blocking=False)
        deployments = serve.status().applications["default"].deployments
        (servers,) = (d for name, d in deployments.items() if name.startswith("HyGenServer"))
        news = {**up, "running": servers.replica_states.get("RUNNING", 0)}
        news["pool"] = pool_status("default")
        path.with_suffix(".new").write_text(json.dumps(news))
        path.with_suffix(".new").rename(path)
        time.sleep(1.0)


def main():
    config = json.loads(sys.argv[1])
    with (
        reserved_port() as port,
        tempfile.TemporaryDirectory(prefix="hygen", ignore_cleanup_errors=True) as folder,
    ):
        ray.init(
            num_cpus=2 * (config["num_replicas"] or 1) + 2,
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
            keep_up(config, up, Path(sys.argv[2]))
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
