"""Time from exec to ready and memory at rest of one process with every role, on the flights project.

    cargo build --release && python3 benches/startup.py [--bin target/release/thali] [--runs 10]

Prints the minimum, median and maximum of each figure. Memory is resident set size (VmRSS) and its
private part (RssAnon), read from /proc five seconds after the process said it was ready, without
traffic. Nothing here is a test: figures depend on the machine, so quote them with it.
"""

import argparse
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

PORTS = ["registry", "registry-rest", "online", "offline", "ui", "metrics"]


def status(pid, key):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def ports():
    return [argument for port in PORTS for argument in (f"--{port}-port", "0")]


def start(command):
    """The process and the seconds until it said that it is ready."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "ready":
            return process, time.perf_counter() - begin
    raise SystemExit(f"{command[0]} ended with {process.wait()} before it was ready")


def stop(process):
    process.send_signal(signal.SIGTERM)
    if process.wait(timeout=60) != 0:
        raise SystemExit(f"it ended with {process.returncode} after SIGTERM")


def run(binary, project):
    process, ready = start([binary, "-c", project, "serve", *ports()])
    try:
        time.sleep(5)
        return ready * 1000, status(process.pid, "VmRSS"), status(process.pid, "RssAnon")
    finally:
        stop(process)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default="target/release/thali")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = f"{folder}/flights"
        demo, _ = start([options.bin, "demo", project, *ports()])
        stop(demo)
        figures = list(zip(*[run(options.bin, project) for _ in range(options.runs)]))
    for name, values in zip(["ready, ms", "RSS at rest, MiB", "of it private, MiB"], figures):
        print(f"{name:20} min {min(values):7.1f}  median {statistics.median(values):7.1f}  max {max(values):7.1f}")


if __name__ == "__main__":
    main()
