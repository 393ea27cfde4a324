"""Jobs on a Ray cluster: a real one, of two nodes, on this machine."""

import json
import signal
import subprocess
import sys
import warnings

import pytest

from lds.cli import main
from lds.errors import InputError
from lds.sweep import Job, ProcessEngine, RayEngine, Spec, read_results, run_sweep
from tests.sweep import jobs
from tests.sweep.processes import Sweep, linux

SPEC = """\
name: rays
runs:
  - {dataset: wine, method: logreg, seed: [0, 1]}
  - {dataset: wine, method: lds}
"""

LONG = """\
name: long
runs:
  - {dataset: wine, method: knn-lds, max_epochs: 1, samples: 2, tau: 20, k: 3, hidden: 4}
"""


@pytest.fixture(scope="module")
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, on import.
        pytest.importorskip("ray", reason="needs Ray: pip install 'lds-gnn[ray]'")
        from ray.cluster_utils import Cluster

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            patch.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine its workers hardly start.
            cluster = Cluster()
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False)
            try:
                cluster.wait_for_nodes()
                yield cluster
            finally:
                cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own.
class TestCluster:
    def test_jobs(self, cluster, tmp_path):
        calls = [(jobs.square, 3), (jobs.fail, "no luck"), (jobs.leave, 3)]
        # A node has one processor, so two jobs that meet are on two nodes.
        calls += [(jobs.meet_on, tmp_path, 2), (jobs.meet_on, tmp_path, 2)]
        calls += [(jobs.process_id,), (jobs.process_id,), (jobs.threads,)]
        todo = [Job(str(number), function, arguments) for number, (function, *arguments) in enumerate(calls)]
        replies = {int(job.name): reply for job, reply in RayEngine(cluster.address).run(todo)}
        assert len(replies) == len(calls)
        assert replies[0].result == 9
        assert (replies[1].error.type, replies[1].error.message) == ("ValueError", "no luck")
        assert "raise ValueError(message)\nValueError: no luck" in replies[1].error.traceback
        assert (replies[2].result, replies[2].error.type) == (None, "WorkerCrashedError")
        assert replies[3].result != replies[4].result, "both nodes take part"
        assert replies[5].result != replies[6].result, "every job has a fresh process"
        assert replies[7].result == 1

    def test_the_same_table_as_with_processes(self, cluster, tmp_path):
        (tmp_path / "spec.yaml").write_text(SPEC)
        argv = [tmp_path / "spec.yaml", "--out", tmp_path / "ray", "--engine", "ray", "--address", cluster.address]
        done = subprocess.run([sys.executable, "-m", "lds", "sweep", *argv], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("lds: 1 of 3 runs failed")
        assert done.stderr.count("\n") == 1
        run_sweep(Spec.read(tmp_path / "spec.yaml"), tmp_path / "processes", ProcessEngine(1), progress=False)
        both = [[comparable(o) for o in read_results(tmp_path / folder)] for folder in ("ray", "processes")]
        assert both[0] == both[1]
        assert [outcome.status for outcome in read_results(tmp_path / "ray")] == ["done", "done", "failed"]

    @linux
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
    def test_stopped_and_started_again(self, cluster, tmp_path, number, code):
        """What ran on the cluster lets go of its folder, too."""
        (tmp_path / "spec.yaml").write_text(LONG)
        options = ["--engine", "ray", "--address", cluster.address]
        first = Sweep(tmp_path / "spec.yaml", tmp_path / "out", *options)
        first.wait_for(lambda: list(tmp_path.rglob("out/runs/*/config.yaml")))
        first.process.send_signal(number)
        assert first.finish()[0] == code
        assert first.lines() == []
        again = Sweep(tmp_path / "spec.yaml", tmp_path / "out", *options)
        code, _, stderr = again.finish()
        assert (code, stderr) == (0, "")
        assert [outcome.status for outcome in read_results(tmp_path / "out")] == ["done"]


def comparable(outcome):
    """An outcome without what the clock, the system and the place say."""
    result = {n: v for n, v in (outcome.result or {}).items() if n not in ("seconds", "peak_rss_mb")}
    error = {n: v for n, v in (outcome.error or {}).items() if n != "traceback"}
    return json.dumps([outcome.config, outcome.status, result, error])


@pytest.mark.filterwarnings("ignore")
def test_no_cluster():
    pytest.importorskip("ray", reason="needs Ray: pip install 'lds-gnn[ray]'")
    with pytest.raises(InputError, match="there must be a Ray cluster at nowhere"):
        list(RayEngine("nowhere").run([Job("a", jobs.square, (1,))]))


def test_no_ray(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", str(tmp_path / "spec.yaml"), "--engine", "ray"]) == 2
    assert "the engine ray needs Ray, which is not here; pip install 'lds-gnn[ray]'" in capsys.readouterr().err
