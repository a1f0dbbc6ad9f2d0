"""Redis as an online store beside stock Feast: alone, as a cluster, behind sentinels, with TLS and users; away and back.

Feast and thali have one folder and one Redis between them, as in `test_online_sql.py`.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import harness
import servers
from harness import Thali
from test_online_sql import DRIVERS, NOW, REFS, ROWS, Repo, assert_equal, columns, load, thali_reads, thali_writes, times


@dataclass
class Place:
    """A Redis, as `feature_store.yaml` has it."""

    connection_string: str
    more: str = ""

    def section(self) -> str:
        return f"online_store:\n  type: redis\n  connection_string: '{self.connection_string}'\n{self.more}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[servers.RedisCluster]:
    with servers.RedisCluster.running() as cluster:
        yield cluster


@pytest.fixture(params=["redis", "redis_cluster"])
def place(request: pytest.FixtureRequest, redis: servers.Redis) -> Place:
    if request.param == "redis":
        redis.say("FLUSHALL")
        return Place(redis.address)
    cluster = request.getfixturevalue("cluster")
    for node in cluster.nodes:
        node.say("FLUSHALL")
    return Place(cluster.address, "  redis_type: redis_cluster\n")


def test_what_feast_wrote_is_served_equal(place: Place, tmp_path: Path) -> None:
    repo = Repo.create(tmp_path / "repo", place)
    when = NOW + timedelta(microseconds=123_456)
    repo.feast_writes(when)
    with Thali.serve(repo.folder) as thali:
        answer = thali_reads(thali)
        assert_equal(columns(answer), repo.feast_reads())
        # An unknown entity is present with null here, as in Feast.
        assert {status for column in answer["results"] for status in column["statuses"]} == {"PRESENT"}
        assert times(answer) == {"2026-03-01T12:00:00.123456Z"}
        thali_writes(thali, NOW - timedelta(hours=1), trips=[7, 7, 7])
        assert columns(thali_reads(thali))["trips"] == [*ROWS["trips"], None]
        # Feast would leave out a correction; thali takes it.
        thali_writes(thali, when, trips=[8, 8, 8])
        assert columns(thali_reads(thali))["trips"] == [8, 8, 8, None]
        assert_equal(columns(thali_reads(thali)), repo.feast_reads())


def test_what_thali_wrote_is_read_equal(place: Place, tmp_path: Path) -> None:
    repo = Repo.create(tmp_path / "repo", place)
    with Thali.serve(repo.folder) as thali:
        thali_writes(thali, NOW)
        assert_equal(columns(thali_reads(thali)), repo.feast_reads())
        # Feast compares with what thali stored: this is older.
        repo.feast_writes(NOW - timedelta(hours=1), trips=[7, 7, 7])
        assert columns(thali_reads(thali))["trips"] == [*ROWS["trips"], None]
        thali.succeed("materialize", "2026-02-28T00:00:00", "2026-03-02T00:00:00")
        assert_equal(columns(thali_reads(thali)), repo.feast_reads())
        assert thali.succeed("online", "count", "stats", "--output", "json").strip().replace(" ", "").replace("\n", "") == '{"stats":3}'
        thali.succeed("online", "truncate", "stats", "--yes")
        assert columns(thali_reads(thali))["trips"] == [None] * 4
        assert_equal(columns(thali_reads(thali)), repo.feast_reads())


def add_service(repo: Repo) -> None:
    from feast import FeatureService

    view = repo.store.get_feature_view("stats")
    repo.store.apply([FeatureService(name="packed", features=[view], precompute_online=True)])


def packed(thali: Thali, drivers: list[int]) -> dict[str, Any]:
    body = {"feature_service": "packed", "entities": {"driver_id": drivers}, "full_feature_names": True}
    status, answer = harness.http("POST", f"{thali.url('online')}/get-online-features", body)
    assert status == 200, answer
    return columns(answer)


def test_precomputed_vectors_go_both_ways(redis: servers.Redis, tmp_path: Path) -> None:
    redis.say("FLUSHALL")
    repo = Repo.create(tmp_path / "repo", Place(redis.address))
    add_service(repo)
    known = [{"driver_id": driver} for driver in (1, 2, 3)]
    feasts = lambda: repo.store.get_online_features(repo.store.get_feature_service("packed"), known, full_feature_names=True).to_dict()  # noqa: E731
    repo.feast_writes(NOW)
    assert repo.store.precompute_feature_service("packed") == 3
    with Thali.serve(repo.folder) as thali:
        assert_equal(packed(thali, [1, 2, 3]), feasts())
        # One unknown entity, with which Feast refuses the whole request.
        assert packed(thali, DRIVERS)["stats__trips"] == [*ROWS["trips"], None]
        # Feast writes rows and not vectors: stale until the vectors are made again, as in Feast.
        repo.feast_writes(NOW + timedelta(hours=1), trips=[5, 5, 5])
        assert packed(thali, [1])["stats__trips"] == feasts()["stats__trips"][:1] == ROWS["trips"][:1]
        assert "3 vectors made" in thali.succeed("precompute")
        assert packed(thali, [1, 2, 3])["stats__trips"] == feasts()["stats__trips"] == [5, 5, 5]
        # What thali writes is never stale, and Feast reads thali's vectors.
        thali_writes(thali, NOW + timedelta(hours=2), trips=[6, 7, 8])
        assert packed(thali, [1, 2, 3])["stats__trips"] == [6, 7, 8]
        assert_equal(packed(thali, [1, 2, 3]), feasts())
        thali.succeed("online", "delete", "stats", "-e", "driver_id=2")
        assert packed(thali, [1, 2])["stats__trips"] == [6, None]


def certificates(folder: Path) -> list[str]:
    """A certificate for 127.0.0.1 and its authority; answers the server's options."""
    servers.certificates(folder)
    files = {"--tls-cert-file": "server.pem", "--tls-key-file": "server.key", "--tls-ca-cert-file": "ca.pem"}
    return [part for option, file in files.items() for part in (option, str(folder / file))]


def test_tls_and_users() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        options = certificates(Path(name) / "tls")
        port = servers.free_port()
        user = ["--user", "bob", "on", ">pass=word/1", "~*", "+@all", "--user", "default", "off"]
        with servers.Redis.running(["--tls-port", port, "--tls-auth-clients", "no", *options, *user]):
            authority = f"ssl_ca_certs={name}/tls/ca.pem"
            secure = f"127.0.0.1:{port},ssl=true,username=bob"
            repo = Repo.create(Path(name) / "repo", Place(f"{secure},password=pass=word/1,{authority}"))
            repo.feast_writes(NOW)
            with Thali.serve(repo.folder) as thali:
                assert_equal(columns(thali_reads(thali)), repo.feast_reads())
            yaml = repo.folder / "feature_store.yaml"
            good = yaml.read_text()
            for string, said in [
                (f"{secure},password=pass=word/1,ssl_cert_reqs=none", ""),
                (f"{secure},password=pass=word/1,{authority},ssl_check_hostname=false", ""),
                (f"{secure},password=pass=word/1", "TLS handshake failed"),
                (f"{secure},password=wrong,{authority}", "WRONGPASS"),
                (f"127.0.0.1:{port},ssl=true,{authority}", "NOAUTH"),
            ]:
                yaml.write_text(good.replace(f"{secure},password=pass=word/1,{authority}", string))
                done = harness.run(repo.folder, "get-online-features", "-e", "driver_id=1", "-f", "stats:trips")
                assert (done.returncode == 0) == (said == ""), done.stderr
                assert said in done.stderr and "wrong," not in done.stderr and "pass=word" not in done.stderr, done.stderr


def test_the_very_certificate_of_the_server_is_trusted() -> None:
    """`openssl req -x509` makes one that says it is an authority; redis-py takes it all the same."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        for pair in ("own", "other"):
            files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / f"{pair}.key"), "-out", str(folder / f"{pair}.pem")]
            subprocess.run([*command, *files], check=True, capture_output=True)
            (folder / f"{pair}.key").chmod(0o644)
        port = servers.free_port()
        options = ["--tls-port", port, "--tls-auth-clients", "no", "--tls-cert-file", f"{name}/own.pem", "--tls-key-file", f"{name}/own.key", "--tls-ca-cert-file", f"{name}/own.pem"]
        with servers.Redis.running(options):
            place = Place(f"127.0.0.1:{port},ssl=true,ssl_ca_certs={name}/own.pem")
            repo = Repo.create(folder / "repo", place)
            repo.feast_writes(NOW)
            with Thali.serve(repo.folder) as thali:
                assert_equal(columns(thali_reads(thali)), repo.feast_reads())
            yaml = repo.folder / "feature_store.yaml"
            yaml.write_text(yaml.read_text().replace(f"{name}/own.pem", f"{name}/other.pem"))
            done = harness.run(repo.folder, "get-online-features", "-e", "driver_id=1", "-f", "stats:trips")
            assert done.returncode != 0 and "TLS handshake failed" in done.stderr, done.stderr


def test_sentinels_name_the_primary(tmp_path: Path) -> None:
    with servers.Redis.running() as first, servers.Redis.running(["--replicaof", "127.0.0.1", first.port]) as second, servers.Sentinel.running(first) as sentinel:
        place = Place(sentinel.address, "  redis_type: redis_sentinel\n  sentinel_master: mymaster\n")
        harness.eventually(lambda: "slaves=1" in sentinel.say("INFO sentinel"), "the sentinel knows the replica")
        repo = Repo.create(tmp_path / "repo", place)
        repo.feast_writes(NOW)
        with Thali.serve(repo.folder) as thali:
            expected = columns(thali_reads(thali))
            assert_equal(expected, repo.feast_reads())
            harness.eventually(lambda: first.say("WAIT 1 100") == ":1\r\n", "the replica has it all")
            first.kill()
            status, answer = harness.http("POST", f"{thali.url('online')}/get-online-features", {"features": REFS, "entities": {"driver_id": DRIVERS}})
            assert status == 503, answer
            harness.eventually(lambda: "role:master" in second.say("INFO replication"), "the replica is the primary")
            harness.eventually(lambda: columns(thali_reads(thali)) == expected, "thali reads from the new primary")
            thali_writes(thali, NOW, trips=[1, 2, 3])
            assert columns(thali_reads(thali))["trips"] == [1, 2, 3, None]


def test_slots_that_move_are_followed(cluster: servers.RedisCluster, tmp_path: Path) -> None:
    for node in cluster.nodes:
        node.say("FLUSHALL")
    repo = Repo.create(tmp_path / "repo", Place(cluster.nodes[0].address, "  redis_type: redis_cluster\n"))
    with Thali.serve(repo.folder) as thali:
        thali_writes(thali, NOW)
        expected = columns(thali_reads(thali))
        ids = [node.say("CLUSTER MYID").split("\r\n")[1] for node in cluster.nodes]
        holder = next(n for n, node in enumerate(cluster.nodes) if node.say("DBSIZE") != ":0\r\n")
        target = (holder + 1) % 3
        source, other = cluster.nodes[holder], cluster.nodes[target]
        import redis

        with redis.Redis(port=source.port) as client:
            keys = client.keys()
            for key in keys:
                slot = client.execute_command("CLUSTER KEYSLOT", key)
                assert other.say(f"CLUSTER SETSLOT {slot} IMPORTING {ids[holder]}") == "+OK\r\n"
                assert source.say(f"CLUSTER SETSLOT {slot} MIGRATING {ids[target]}") == "+OK\r\n"
                client.execute_command("MIGRATE", "127.0.0.1", other.port, key, 0, 5000)
                # Half-way: the old node asks to look at the new one.
                assert columns(thali_reads(thali)) == expected
                for node in cluster.nodes:
                    node.say(f"CLUSTER SETSLOT {slot} NODE {ids[target]}")
                # Over: the old node says where it has moved.
                assert columns(thali_reads(thali)) == expected
        assert keys
        thali_writes(thali, NOW, trips=[1, 2, 3])
        assert columns(thali_reads(thali))["trips"] == [1, 2, 3, None]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_server_that_was_gone_is_used_again_within_two_seconds(redis: servers.Redis, tmp_path: Path, how: str) -> None:
    redis.say("FLUSHALL")
    repo = Repo.create(tmp_path / "repo", Place(redis.address))
    with Thali.serve(repo.folder) as thali:
        thali_writes(thali, NOW)
        expected = thali_reads(thali)
        body = {"features": REFS, "entities": {"driver_id": DRIVERS}}
        url = f"{thali.url('online')}/get-online-features"
        try:
            with load(lambda: harness.http("POST", url, body)) as answers:
                harness.eventually(lambda: len(answers) > 100, "answers")
                getattr(redis, how)()
                harness.eventually(lambda: sum(status == 503 for _, _, status, _ in answers) > 20, "clear refusals")
                assert harness.http("GET", f"{thali.url('online')}/ready")[0] == 503
                redis.start()
                back = time.monotonic()
                harness.eventually(lambda: any(began > back and status == 200 for began, _, status, _ in answers), "answers again", 2.0)
                count = len(answers)
                harness.eventually(lambda: len(answers) > count + 200, "more answers")
        finally:
            redis.start()
        assert {status for _, _, status, _ in answers} == {200, 503}
        assert all(answer == expected for _, _, status, answer in answers if status == 200)
        assert max(ended - began for began, ended, _, _ in answers) < 5
        assert all(status == 200 for began, _, status, _ in answers if began > back + 2)
        refusals = {str(answer) for _, _, status, answer in answers if status == 503}
        assert all("online store `redis`" in refusal for refusal in refusals), refusals
