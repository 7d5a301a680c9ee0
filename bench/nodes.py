"""
Which Ray cluster do benchmarks and tests run on?

    python -m bench.nodes COUNT

A head without CPUs, for the driver, and COUNT nodes with one each, all on this machine. It prints its address
and does what it is told line by line, until its standard input ends: `worker N` kills what works on node N,
`node N` the whole node with what works on it, `head` what the cluster is led by. Each is answered by a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
_OBJECTS = 80 * 2**20
"""Bytes of a node's object store, which takes no less."""


class Nodes:
    """A cluster of this machine's, and what may befall it. Nodes are counted from 0."""

    address: str
    session: Path
    """Where Ray keeps its logs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def up(cls, count: int) -> Iterator[Nodes]:
        """Start so many nodes, and end them."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        with subprocess.Popen(
            [sys.executable, "-m", "bench.nodes", str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as process:
            nodes = cls(process)
            _, nodes.address, session = nodes._told("cluster").split()
            nodes.session = Path(session)
            yield nodes
            process.communicate()

    def kill_worker(self, node: int) -> None:
        """SIGKILL for what works on a node, once something does."""
        self._tell(f"worker {node}")

    def kill(self, node: int) -> None:
        """SIGKILL for a node and all that runs on it."""
        self._tell(f"node {node}")

    def kill_head(self) -> None:
        """SIGKILL for what leads the cluster; its nodes live on without it, for a minute."""
        self._tell("head")

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        self._told("done")

    def _told(self, word: str) -> str:
        """What it says next, of what it says to us; Ray has its own to say."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.strip()
        raise SystemExit("the cluster is not there")


def main() -> None:
    """Be the cluster until standard input ends."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415  the tests of those who have no Ray import this too

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECTS},
    )
    count = int(sys.argv[1])
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=_OBJECTS, wait=False) for _ in range(count)]
    cluster.wait_for_nodes()
    print("cluster", cluster.address, cluster.head_node.get_session_dir_path(), flush=True)
    try:
        for command in sys.stdin:
            what, *number = command.split()
            if what == "head":
                cluster.head_node.kill_gcs_server()
            else:
                _kill(nodes[int(*number)], whole=what == "node")
            print("done", flush=True)
    finally:
        for node in [*nodes, cluster.head_node]:  # its own way of ending waits for a head that may be gone
            node.kill_all_processes(check_alive=False, allow_graceful=False)


def _kill(node: Any, *, whole: bool) -> None:
    import psutil  # noqa: PLC0415  Ray brings it along

    (raylet,) = (each.process.pid for each in node.all_processes["raylet"])
    children = psutil.Process(raylet).children(recursive=True)
    working = [each for each in children if each.cmdline()[:1] and "Outpost" in each.cmdline()[0]]
    if whole:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    for each in children if whole else working:
        with suppress(psutil.NoSuchProcess):
            each.kill()


if __name__ == "__main__":
    main()
