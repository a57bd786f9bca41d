"""A Ray cluster of two nodes on this machine, one of which is lost."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kills import is_alive
from record_factory import make_record
from sweeps import TINY, Here, import_here, jobs, network, numbers, process_of, telling, trusted

from timm_diffsens.errors import MeasurementError
from timm_diffsens.results.records.store import iter_records, write_record
from timm_diffsens.schema.records import Record
from timm_diffsens.sweep.executors.ray import Ray
from timm_diffsens.sweep.run import sweep

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes with one CPU each; the head has none, so that it can never be the one that works."""
    from ray.cluster_utils import Cluster

    monkeypatch.undo()  # the nodes talk over sockets of this machine
    import_here(monkeypatch)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_sweep_survives_the_loss_of_a_node_and_gives_what_one_process_gives(cluster, tmp_path):
    """Lost while both nodes are at work: each on a network that waits for a file."""
    alone, out, go = tmp_path / "alone", tmp_path / "out", tmp_path / "go"
    begun = "import os; tries.with_suffix('.begun').write_text(str(os.getpid()))"
    wait = f"import time; {begun}; [time.sleep(0.05) for _ in iter(pathlib.Path({str(go)!r}).exists, True)]"
    waiting = [network(tmp_path, f"waits{k}", wait) for k in range(2)]

    def lose_a_node():
        end = time.monotonic() + 120
        while len(list(tmp_path.glob("waits*.begun"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        processes = [int(path.read_text()) for path in tmp_path.glob("waits*.begun")]
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        while all(map(is_alive, processes)) and time.monotonic() < end:
            time.sleep(0.05)
        go.touch()

    with ThreadPoolExecutor(1) as beside:
        lost = beside.submit(lose_a_node)
        found = list(sweep(jobs(out, *waiting, *TINY), Ray()))
        lost.result()
    assert [outcome.status for outcome in found] == ["done"] * (2 + len(TINY))
    assert [outcome.model in waiting for outcome in found if outcome.attempt > 1] == [True]
    assert all(outcome.status == "done" for outcome in sweep(jobs(alone, *waiting, *TINY), Here()))
    assert numbers(out) == numbers(alone)


def test_failures_on_a_cluster(cluster, tmp_path):
    bad = network(tmp_path, "bad", 'raise ValueError("no good")')
    kill = network(tmp_path, "kill", "import os; os.kill(os.getpid(), 9)")
    found = {outcome.model: outcome for outcome in sweep(jobs(tmp_path, bad, kill, "net/lenet"), Ray())}
    assert (found[bad].status, found[bad].error, found[bad].attempt) == ("failed", "ValueError", 1)
    assert (found[kill].status, found[kill].attempt) == ("lost", 3)
    assert found["net/lenet"].status == "done"


def test_an_actor_keeps_its_process_until_a_model_ends_it(cluster, tmp_path):
    kill = telling(tmp_path, "k", "os.kill(os.getpid(), 9)")
    names = ["a", "b", "c", "d", "e", "f"]
    models = [telling(tmp_path, name) for name in names]
    found = {job.model: o for job, o in Ray().run(trusted(tmp_path, *models, kill), lambda job: None)}
    assert {found[model].status for model in models} == {"done"}
    assert found[kill].status == "lost"
    assert len({process_of(tmp_path, name) for name in names}) == 2  # one a node


def test_sixteen_writers_on_two_nodes_lose_nothing(cluster, tmp_path):
    @ray.remote(num_cpus=1 / 8)
    def write(records: list[Record]) -> str:
        for record in records:
            write_record(tmp_path, record)
        return str(ray.get_runtime_context().get_node_id())

    def own(me: int) -> list[Record]:
        ten = [make_record(f"own-{me}-{i}") for i in range(10)]
        return [record for one in ten for record in (one, make_record("shared", warnings=[f"by {me}"]))]

    assert len(set(ray.get([write.remote(own(me)) for me in range(16)]))) == 2
    records = [record for _, record in iter_records(tmp_path)]
    assert not [record for record in records if isinstance(record, Exception)]
    names = {f"own-{me}-{i}" for me in range(16) for i in range(10)}
    assert {record.model.spec for record in records} == names | {"shared"}
    assert not list(tmp_path.rglob("*.tmp"))


def test_no_cluster_is_an_error_with_its_address(tmp_path):
    with pytest.raises(MeasurementError, match="no Ray cluster at auto"):
        list(sweep(jobs(tmp_path, "net/lenet"), Ray("auto")))
