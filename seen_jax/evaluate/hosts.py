"""Several hosts: how the processes of one experiment find each other, share its work, and wait for one another.

jax.distributed says who is who. All else goes through the experiment's folder, which every host must see: no model call
spans two processes, so a lost one takes nothing with it but the batch that it was at."""

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError
from seen_jax.progress import Progress

TIMEOUT = 300.0  # s, for all processes to start
PATIENCE = 3600.0  # s without anything new from another process
POLL = 0.5  # s between two looks


@dataclasses.dataclass(frozen=True)
class Hosts:
    """This process among the `count` that share an experiment. Process 0 leads: it calibrates, runs the studies and
    writes tables and report; all of them answer."""

    index: int = 0
    count: int = 1
    coordinator: str | None = None  # where the leader can be reached, "host:port", if that is known
    timeout: float = TIMEOUT  # seconds that processes give each other to start

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"the count of hosts must be 1 or more, not {self.count}")
        if not 0 <= self.index < self.count:
            raise ConfigError(f"the index of {self.count} hosts must be 0 to {self.count - 1}, not {self.index}")
        if not self.timeout > 0:
            raise ConfigError(f"the timeout of hosts must be more than 0 s, not {self.timeout:g}")
        if self.coordinator is not None:
            address_of(self.coordinator)

    @property
    def leads(self) -> bool:
        return self.index == 0

    def owns(self, number: int) -> bool:
        """Whether a piece of work, counted from 0, is this process's: in turns, whatever was done before."""
        return number % self.count == self.index

    def wait_for(self, path: Path, stage: str, progress: Progress, patience: float = PATIENCE) -> None:
        """Until the leader has written `path`; the leader itself does not wait. ConfigError as `wait`."""
        needed = f"{path} from process 0: it must run, and every host must see that same folder"
        if not self.leads:
            self.wait(lambda: (path.exists(), 1), stage, progress, needed, patience)

    def wait(
        self,
        count: Callable[[], Sequence[int]],
        stage: str,
        progress: Progress,
        needed: str,
        patience: float = PATIENCE,
    ) -> None:
        """Until count() returns (done, in all) with all done. needed: what is waited for, in the error. ConfigError
        once nothing new has come for `patience` seconds, or the leader's port is closed."""
        (done, total), since = count(), time.monotonic()
        while done < total:
            progress(stage, done, total)
            time.sleep(POLL)
            before, (done, total) = done, count()
            if done > before:
                since = time.monotonic()
            elif time.monotonic() - since > patience:
                raise ConfigError(f"process {self.index} waited {patience:g} s for {needed}; what was done is kept")
            elif not self.leads and self.coordinator and _listens(self.coordinator) is False and count()[0] < total:
                raise ConfigError(f"process 0 ({self.coordinator}) has stopped: start all again; what was done is kept")
            if done == total:
                progress(stage, done, total)


ALONE = Hosts()


def join(
    coordinator: str | None = None, count: int | None = None, index: int | None = None, timeout: float = TIMEOUT
) -> Hosts:
    """Meet the other processes through jax.distributed, before anything else uses jax; returns which one this is.

    coordinator: "host:port" that process 0 listens at and every host can reach. Without all three of them jax finds
    them out: under SLURM, Open MPI or Kubernetes, and on TPU pods. timeout: seconds to wait for the others. A process
    that is lost can be started again alone, unless it is process 0.
    Raises ConfigError for values that make no sense, where no cluster is found, after jax was used already, and where
    others do not come in time."""
    given: dict[str, Any] = {"coordinator": coordinator, "count": count, "index": index}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ConfigError(f"hosts need coordinator, count and index together: {' and '.join(missing)} missing")
    known = Hosts(timeout=timeout) if missing else Hosts(**given, timeout=timeout)
    if known.count == 1 and not missing:
        return known
    import jax

    # jax ends every process when one is lost, unless it is told that a lost one may come back.
    jax.config.update("jax_enable_recoverability", True)
    start = time.monotonic()
    if known.coordinator and known.leads:
        _check_port(known.coordinator)
    while known.coordinator and not known.leads and not _listens(known.coordinator):
        if time.monotonic() - start > timeout:
            problem = f"process 0 did not answer at {known.coordinator} within {timeout:g} s"
            raise ConfigError(f"{problem}: does it run there, and is the port open?")
        time.sleep(POLL)
    # jax aborts the process where others do not come: it gets more time than this process waits for it.
    remaining = max(1.0, timeout - (time.monotonic() - start))
    arguments: dict[str, Any] = {"initialization_timeout": int(remaining) + 60}
    if not missing:
        arguments |= {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    errors: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(**arguments)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=initialize, name="join", daemon=True)
    thread.start()
    thread.join(remaining)
    if thread.is_alive():
        raise ConfigError(f"not every process came within {timeout:g} s: start all of them, each with its index")
    if errors:
        raise ConfigError(_explained(str(errors[0]), coordinator)) from errors[0]
    hosts = dataclasses.replace(known, index=jax.process_index(), count=jax.process_count())
    if not hosts.leads:  # jax would end this process with process 0, which stays reachable for those that come back
        jax.distributed.shutdown()
    return hosts


def address_of(coordinator: str) -> tuple[str, int]:
    """Host and port. ConfigError if it is not "host:port"."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"the coordinator must be HOST:PORT, such as 10.0.0.1:8476, not {coordinator!r}")
    return host.strip("[]"), int(port)


def _listens(coordinator: str) -> bool | None:
    """Whether somebody listens there; None where that is not known: a slow network is no proof."""
    try:
        socket.create_connection(address_of(coordinator), 5).close()
    except OSError as error:
        return False if isinstance(error, ConnectionRefusedError) else None
    return True


def _check_port(coordinator: str) -> None:
    """jax would crash where the port is in use."""
    port, both = address_of(coordinator)[1], socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise ConfigError(f"process 0 cannot listen at port {port}: {os.strerror(error.errno or 0)}") from None


def _explained(problem: str, coordinator: str | None) -> str:
    first = next(iter(problem.strip().splitlines()), "unknown error")
    if "before any JAX calls" in problem:
        return "the hosts must be joined before anything else uses jax"
    if "should be defined" in problem or "must be defined" in problem:
        return "no cluster was found (SLURM, Open MPI, Kubernetes, TPU pod): give coordinator, count and index"
    return f"the hosts cannot be joined{f' at {coordinator}' * bool(coordinator)}: {first}"
