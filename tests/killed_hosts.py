"""Two processes train together, one is killed, the other must end with an error, and both resume.

python tests/killed_hosts.py --kills 5
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROCESSES, STEPS = 2, 300


def start(folder, steps=STEPS, processes=PROCESSES, **variables):
    """The recipe on so many processes of this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | variables
    environment.pop("XLA_FLAGS", None)
    line = [sys.executable, ROOT / "recipes" / "many_hosts.py", "--processes", processes]
    line += ["--coordinator", f"localhost:{port}", "--folder", folder, "--steps", steps]
    return [
        subprocess.Popen(
            [str(x) for x in [*line, "--process", i]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]


def finish(workers, timeout=300):
    """The losses that the first process prints, of a run that nobody disturbs."""
    texts = [worker.communicate(timeout=timeout)[0] for worker in workers]
    for worker, text in zip(workers, texts, strict=True):
        assert worker.returncode == 0, text
    return [line for line in texts[0].splitlines() if line.startswith("step ")]


def latest(folder):
    """The step of the newest complete checkpoint, 0 if there is none."""
    steps = [int(x.name) for x in Path(folder).glob("*") if x.name.isdigit()]
    return max(steps, default=0)


def kill_one(workers, victim, folder, delay):
    """Kill a process some time after the first checkpoint: seconds that the others took to end, and how."""
    while latest(folder) == 0:
        if any(worker.poll() is not None for worker in workers):
            for worker in workers:
                worker.kill()
            raise AssertionError("".join(worker.communicate()[0] for worker in workers))
        time.sleep(0.02)
    time.sleep(delay)
    was_running = all(worker.poll() is None for worker in workers)
    workers[victim].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    others = [worker for i, worker in enumerate(workers) if i != victim]
    texts = [worker.communicate(timeout=120)[0] for worker in others]
    workers[victim].communicate()
    seconds = time.monotonic() - begin
    if was_running:
        for worker, text in zip(others, texts, strict=True):
            assert worker.returncode != 0, text
    return was_running, seconds, texts


def main(kills):
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        expected = finish(start(f"{folder}/undisturbed"))
        length = time.monotonic() - begin
        print(f"undisturbed ({length:.0f} s): {expected[-1]}", flush=True)
        same = 0
        for kill in range(kills):
            where, victim = f"{folder}/{kill}", kill % PROCESSES
            is_killed, seconds, _ = kill_one(
                start(where), victim, where, delay=rng.uniform(0, 0.2 * length)
            )
            step = latest(where)
            found = finish(start(where))
            same += is_killed and found[-1] == expected[-1]
            print(
                f"process {victim} killed {'' if is_killed else 'too late '}after checkpoint {step}; the "
                f"other ended in error {seconds:.1f} s later; resumed: {found[-1]}",
                flush=True,
            )
        print(f"{same} of {kills} resumed to the same loss")
        return same == kills


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=5)
    sys.exit(0 if main(parser.parse_args().kills) else 1)
