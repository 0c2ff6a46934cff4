"""The command line in processes that begin with everything imported, to be killed: each saves three seconds.

As a script, it serves requests on stdin: {"argv": [...], "log": FILE, "limit": bytes that a file may have, or null}.
For each it prints the process id at once, and the exit status (negative: the signal) when the process has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Launcher:
    """Starts one command after the other."""

    def __init__(self, cache: Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        small = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        env = {**os.environ, **small, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen([sys.executable, __file__], env=env, **pipes)
        self.pid = 0

    def start(self, argv: list[object], log: Path, limit: int | None = None) -> None:
        request = {"argv": list(map(str, argv)), "log": str(log), "limit": limit}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # it is waited for once its status is read, so the id is nobody else's

    def wait(self) -> int:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, argv: list[object], log: Path, limit: int | None = None) -> int:
        self.start(argv, log, limit)
        return self.wait()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401

    import seen_jax.cli._inputs
    import seen_jax.experiment  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            be_the_program(request)
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def be_the_program(request: dict) -> None:
    import resource

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["limit"]:
        sys.dont_write_bytecode = True  # Python 3.11 keeps a file of which only a part was written
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    sys.argv = ["seen-jax", *request["argv"]]
    status = 130
    try:
        from seen_jax.cli import console

        console()
    except SystemExit as e:
        status = int(e.code or 0)
    except KeyboardInterrupt:  # before the program has begun
        pass
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
