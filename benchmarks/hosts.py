"""Three hosts on one machine, one of which is unplugged in mid-phase: the result is the same, to the last bit.

Each host is a network namespace with an address, a ``/tmp`` and a ``/dev/shm`` of its own, and one Ray node: a head
without CPUs for runners, and two workers. They see each other through a bridge alone. Linux, as root::

    python benchmarks/hosts.py

It removes what it made, also after an error. Nothing outside of these namespaces is reached.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

BRIDGE, NETWORK = "mamlbr", "10.77.0"
HOSTS = ("maml-head", "maml-one", "maml-two")
PORT = 6379
RUNNERS_EACH = 2
# Ray waits about half a minute before it gives a host up; this is a test.
PATIENCE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--unplug-after", type=int, default=4, help="iterations until a host is unplugged")
    parser.add_argument("--train", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(*given.train)
        return
    if os.geteuid() != 0:
        raise SystemExit("hosts: network namespaces need root")
    alone = _report(_run([], 0, given.iterations, None))
    with hosts() as environment:
        whole = _report(_run([*_on(HOSTS[0]), *environment], 2, given.iterations, None))
    with hosts() as environment:
        hurt = _report(_run([*_on(HOSTS[0]), *environment], 2, given.iterations, given.unplug_after))
    print("| hosts | parameters | seconds of all iterations | of the slowest |\n|---|---|---|---|")
    for name, row in (("this process", alone), ("three", whole), ("three, one unplugged", hurt)):
        print(f"| {name} | {row[0]} | {row[1]:.1f} | {row[2]:.1f} |")
    if len({alone[0], whole[0], hurt[0]}) > 1:
        raise SystemExit("hosts: the parameters differ")


def train(workers: int, iterations: int) -> None:
    """The driver: on the head's host, or alone."""
    import numpy as np

    from maml_rl import MAMLConfig
    from maml_rl.tools.ray_start import start_ray

    start_ray(f"{NETWORK}.1:{PORT}" if workers else None)
    config = MAMLConfig().environment("maml_rl/PointNav-v0")
    for name, value in {"inner_lr": 0.1, "meta_batch_size": 24, "horizon": 50}.items():
        setattr(config, name, value)
    algo = config.env_runners(num_env_runners=workers * RUNNERS_EACH).build_algo()
    for iteration in range(iterations):
        print(f"iteration {iteration} {algo.train()['time_this_iter_s']:.2f}", flush=True)
    total = sum(float(np.abs(value).sum(dtype=np.float64)) for value in algo.meta_params().values())
    print(f"parameters {total:.12f}", flush=True)


def _run(prefix: list[str], workers: int, iterations: int, unplug_after: int | None) -> str:
    """What the driver printed; a host is unplugged while it trains."""
    command = [*prefix, sys.executable, __file__, "--train", str(workers), str(iterations)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as driver:
        assert driver.stdout is not None
        lines = []
        for line in driver.stdout:
            lines.append(line)
            print(f"  {line}", end="", flush=True)
            if unplug_after is not None and line.startswith(f"iteration {unplug_after - 1} "):
                time.sleep(0.2)  # into the rollouts of the next one
                _ip("link", "set", _outside(2), "down")
                print(f"  {HOSTS[2]} is unplugged", flush=True)
    if driver.returncode:
        raise SystemExit("hosts: the driver failed")
    return "".join(lines)


def _report(printed: str) -> tuple[str, float, float]:
    seconds = [float(value) for value in re.findall(r"iteration \d+ ([\d.]+)", printed)]
    (parameters,) = re.findall(r"parameters ([\d.]+)", printed)
    return parameters, sum(seconds), max(seconds)


@contextmanager
def hosts() -> Iterator[list[str]]:
    """The hosts with their Ray nodes; gives what a command on them begins with."""
    token = secrets.token_hex(32)
    environment = ["env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={token}", "OMP_NUM_THREADS=1"]
    environment += [f"{name}={value}" for name, value in PATIENCE.items()]
    with ExitStack() as stack:
        _ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "del", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for number, host in enumerate(HOSTS):
            _ip("netns", "add", host)
            stack.callback(_ip, "netns", "del", host)
            _ip("link", "add", _outside(number), "type", "veth", "peer", "name", "eth0", "netns", host)
            stack.callback(_ip, "link", "del", _outside(number))  # a namespace goes when its last process has
            _ip("link", "set", _outside(number), "master", BRIDGE, "up")
            for arguments in (
                ("addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", host, *arguments)
        for number, host in enumerate(HOSTS):
            stack.enter_context(_node(number, host, environment))
        yield environment


@contextmanager
def _node(number: int, host: str, environment: list[str]) -> Iterator[None]:
    """A Ray node, with mounts that end with it; the driver on the head's host shares them."""
    ray = Path(sys.executable).parent / "ray"
    own = ["--node-ip-address", f"{NETWORK}.{number + 1}", "--block", "--disable-usage-stats"]
    role = (
        ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        if number == 0
        else [f"--address={NETWORK}.1:{PORT}", f"--num-cpus={RUNNERS_EACH}"]
    )
    # A mount namespace that lives as long as its first process, whose number others enter it by.
    script = (
        'mount --make-rprivate / && mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    )
    command = ["ip", "netns", "exec", host, "unshare", "--mount", "sh", "-c", script, "sh"]
    process = subprocess.Popen(
        [*command, *environment, str(ray), "start", *role, *own],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(8.0)  # `ray start` says nothing of when others may join
        if process.poll() is not None:
            raise SystemExit(f"hosts: the Ray node of {host} ended with {process.returncode}")
        _PROCESSES[host] = process.pid
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():  # what Ray left there: the namespace is this script's own
            subprocess.run(["kill", "-9", pid], check=False)


_PROCESSES: dict[str, int] = {}


def _on(host: str) -> list[str]:
    """What a command in a host's namespaces begins with."""
    return ["nsenter", "--target", str(_PROCESSES[host]), "--net", "--mount"]


def _outside(number: int) -> str:
    """The bridge's end of a host's cable."""
    return f"mamlv{number}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
