"""Several hosts: every unit of work counts exactly once, a lost process can come back, and the tables stay the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from compilation_cache import CACHE
from evaluate_models import random_folder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_experiment import write_clips

from seen_jax.errors import ConfigError
from seen_jax.evaluate.hosts import ALONE, Hosts, join
from seen_jax.evaluate.ledger import ANSWERS, Ledger
from seen_jax.progress import silent

ROOT = Path(__file__).parents[2]


def rows(unit: str) -> list[dict]:
    return [{"item": f"{unit}.{i}", "text": "ä"} for i in range(3)]


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_piece_of_work_is_owned_once(pieces, count):
    shares = [[n for n in range(pieces) if Hosts(i, count).owns(n)] for i in range(count)]
    assert sorted(n for share in shares for n in share) == list(range(pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# One start of an experiment: of how many processes; how many units each does until it is lost; whether in mid-line; and
# how many more it does, unseen, while the next start is already at work.
starts = st.lists(
    st.integers(1, 4).flatmap(
        lambda count: st.lists(
            st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2)), min_size=count, max_size=count
        )
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(units=st.integers(1, 12), starts=starts, last=st.integers(1, 4))
@example(units=3, starts=[[(2, False, 0), (0, False, 0)]], last=1)  # in one file already, but not in its order
def test_units_are_done_and_counted_once_whatever_is_interrupted(units, starts, last):
    names = [f"set/{i}/white" for i in range(units)]
    with tempfile.TemporaryDirectory() as folder:
        path, alone = Path(folder) / ANSWERS, Path(folder) / "alone" / ANSWERS
        left = []
        for start in [*starts, [(units, False, 0)] * last]:
            now, busy = [], {Ledger(path, i).appended for i in range(len(start))}
            for i, (some, cut, more) in enumerate(start):
                ledger = Ledger(path, i)
                share = [name for n, name in enumerate(names) if Hosts(i, len(start)).owns(n)]
                pending = [name for name in share if name not in ledger.done]
                for name in pending[:some]:
                    ledger.add(name, rows(name))
                if cut:
                    with ledger.appended.open("ab") as file:
                        file.write(b'{"unit": "half')
                else:
                    now.append((ledger, pending[some : some + more]))
            for ledger, late in left:
                if ledger.appended not in busy:  # an index is one process's at a time
                    for name in late:
                        ledger.add(name, rows(name))
            left = now
        ledger = Ledger(path)
        assert ledger.done == set(names)
        assert sorted(row["item"] for row in ledger.rows()) == sorted(r["item"] for n in names for r in rows(n))
        ledger.gather(names)
        alone.parent.mkdir()
        one = Ledger(alone)
        for name in names:
            one.add(name, rows(name))
        assert path.read_bytes() == alone.read_bytes() and list(ledger.rows()) == list(one.rows())
        assert [p.name for p in Path(folder).iterdir() if p.is_file()] == [ANSWERS]


def test_a_unit_done_twice_is_that_of_the_first_process(tmp_path):
    ledgers = [Ledger(tmp_path / ANSWERS, i) for i in range(3)]
    for i in (2, 0, 1):
        ledgers[i].add("a", [{"by": i}])
    ledgers[2].add("b", [{"by": 2}])
    ledgers[1].add("b", [{"by": 1}])
    ledgers[2].refresh()
    assert [row["by"] for row in ledgers[2].rows()] == [0, 1]
    ledgers[0].refresh()
    ledgers[0].gather(["b", "a"])
    assert [row["by"] for row in ledgers[0].rows()] == [1, 0]
    assert [path.name for path in tmp_path.iterdir()] == [ANSWERS]


def test_another_process_may_be_in_the_middle_of_a_line(tmp_path):
    theirs, ours = Ledger(tmp_path / ANSWERS, 1), Ledger(tmp_path / ANSWERS)
    theirs.add("a", rows("a"))
    with theirs.appended.open("ab") as file:
        file.write(b'{"unit": "b", ')
    before = theirs.appended.read_bytes()
    ours.refresh()
    assert ours.done == {"a"} and theirs.appended.read_bytes() == before
    with theirs.appended.open("ab") as file:
        file.write(b'"rows": []}\n')
    ours.refresh()
    assert ours.done == {"a", "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 2}, "coordinator and index missing"),
        ({"coordinator": "a:1", "count": 0, "index": 0}, "count of hosts must be 1 or more, not 0"),
        ({"coordinator": "a:1", "count": 2, "index": 2}, "must be 0 to 1, not 2"),
        ({"coordinator": "a:1", "count": 2, "index": -1}, "must be 0 to 1, not -1"),
        ({"coordinator": "a", "count": 2, "index": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:http", "count": 2, "index": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:1", "count": 2, "index": 0, "timeout": 0}, "more than 0 s"),
    ],
)
def test_hosts_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        join(**values)


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_a_coordinator_that_does_not_answer():
    with pytest.raises(ConfigError, match=r"process 0 did not answer at 127\.0\.0\.1:\d+ within 0\.1 s"):
        join(free_address(), 2, 1, timeout=0.1)


def test_a_port_that_is_in_use():
    with socket.create_server(("", 0)) as taken, pytest.raises(ConfigError, match="process 0 cannot listen at port"):
        join(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0, timeout=1)


def test_one_host_needs_nobody():
    assert join(free_address(), 1, 0).count == 1
    ALONE.wait_for(Path("never"), "waiting", silent)


def test_waiting_ends(tmp_path):
    told = []
    with pytest.raises(ConfigError, match=r"process 1 waited 0\.1 s for .*manifest.json.*that same folder"):
        Hosts(1, 2).wait_for(tmp_path / "manifest.json", "waiting", lambda *x: told.append(x), patience=0.1)
    assert set(told) == {("waiting", 0, 1)}
    with pytest.raises(ConfigError, match="has stopped: start all again"):
        Hosts(1, 2, free_address()).wait_for(tmp_path / "manifest.json", "waiting", silent)


COMMAND = """
import sys
from seen_jax.cli import main
from seen_jax import experiment

experiment.example_clips = lambda *_: []
experiment.write_report = lambda folder, *_: folder  # its figures would take longer than all the answers
sys.exit(main(sys.argv[1:]))
"""


class Process:
    """`seen-jax evaluate` with some options, in a process of its own, without the report."""

    def __init__(self, config: Path, out: Path, *options: str):
        argv = [sys.executable, "-c", COMMAND, "evaluate", str(config), "--out", str(out), "--json", *options]
        env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(CACHE), "PYTHONPATH": str(ROOT)}
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        self._process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill_after(self, ledger: Path) -> None:
        """SIGKILL as soon as a unit is done."""
        while not (ledger.exists() and b"\n" in ledger.read_bytes()):
            assert self._process.poll() is None, self._process.communicate()[1]
            time.sleep(0.01)
        self._process.kill()
        self._process.communicate()

    def result(self) -> dict:
        try:
            out, err = self._process.communicate(timeout=300)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, err
        return json.loads(out)


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_give_the_tables_of_one(tmp_path):
    """Under jax.distributed: process 1 is lost in the middle of its share and started again, process 0 goes on."""
    for part, count in (("test", 8), ("calibration", 4)):
        write_clips(tmp_path / part, count, len(part), seconds=(0.5,) * 3)  # one shape to compile
    config = tmp_path / "e.yaml"
    config.write_text(
        f"model: {random_folder()}\n"
        f"datasets: [{{path: {tmp_path / 'test' / 'items.csv'}, name: birds}}]\n"
        f"calibration: {{dataset: {{path: {tmp_path / 'calibration' / 'items.csv'}}}, clips: 4}}\n"
        "noises: [white, {spec: pink, calibrated: false}]\nsnrs: [0]\nmitigations: [none, seen]\n"
        "selection: {method: complement, layers: all}\nbatch_size: 2\nmax_new_tokens: 3\n"
    )
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    Process(config, whole).result()
    hosts = ["--hosts.coordinator", free_address(), "--hosts.count", "2", "--hosts.timeout", "120", "--hosts.index"]
    first, second = (Process(config, shared, *hosts, index) for index in "01")
    second.kill_after(shared / "answers-00001.jsonl")
    done = (shared / "answers-00001.jsonl").read_bytes().count(b"\n")
    again = Process(config, shared, *hosts, "1")
    assert again.result() == {"out": str(shared), "answers": 2 * 2 * 2 * 2 * 2}
    summary = first.result()
    assert summary["answers"] == 8 * 2 * 2 * 2 and 0 < done < 4  # of 2 batches under 2 noises
    left = [sorted(str(p.relative_to(out)) for p in out.rglob("*")) for out in (whole, shared)]
    assert left[0] == left[1]
    for path in [*(whole / "tables").iterdir(), whole / ANSWERS]:
        assert (shared / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name
