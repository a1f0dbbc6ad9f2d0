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


def run(binary, project):
    command = [binary, "-c", project, "serve", *[f for p in PORTS for f in (f"--{p}-port", "0")]]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                break
        else:
            raise SystemExit("the process ended before it was ready")
        ready = (time.perf_counter() - begin) * 1000
        time.sleep(5)
        return ready, status(process.pid, "VmRSS"), status(process.pid, "RssAnon")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default="target/release/thali")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = f"{folder}/flights"
        subprocess.run([options.bin, "demo", project, "--no-serve"], check=True)
        figures = list(zip(*[run(options.bin, project) for _ in range(options.runs)]))
    for name, values in zip(["ready, ms", "RSS at rest, MiB", "of it private, MiB"], figures):
        print(f"{name:20} min {min(values):7.1f}  median {statistics.median(values):7.1f}  max {max(values):7.1f}")


if __name__ == "__main__":
    main()
