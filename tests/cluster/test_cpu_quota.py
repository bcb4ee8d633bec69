"""Virtual hosts with a bound on their processor time."""

from __future__ import annotations

import sys

from tests.cluster.cpu_quota import PREFIX, why_no_quotas
from tests.cluster.hosts import VirtualCluster, why_not
from tests.parts import skip_or_fail

SPIN = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
GROUP = "print(open('/proc/self/cgroup').read())"


def test_a_host_gets_no_more_than_its_quota() -> None:
    if reason := why_not() or why_no_quotas():
        skip_or_fail("cluster", reason)
    with VirtualCluster(2, cores=0.5) as cluster:
        groups = {host: cluster.quotas[host].path for host in cluster.hosts}
        before = {host: cluster.quotas[host].num_throttled for host in cluster.hosts}
        cluster.run("bp0", [sys.executable, "-c", SPIN])
        assert cluster.quotas["bp0"].num_throttled > before["bp0"]
        assert groups["bp1"].name in cluster.run("bp1", [sys.executable, "-c", GROUP])
        done = cluster.run_ranks(["bp0", "bp1"], ["-c", GROUP], timeout=60)
        assert done.returncode == 0, done.stderr
        for host in cluster.hosts:
            assert f"/{groups[host].name}\n" in done.stdout
    assert not any(path.exists() for path in groups.values())
    assert all(path.name.startswith(PREFIX) for path in groups.values())
