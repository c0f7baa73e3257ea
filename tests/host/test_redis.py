"""The application's Redis: on its socket, for its own user, and without the commands of an administrator."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.hosts("web")


REFUSED = [
    "CONFIG GET dir",
    "CONFIG SET dir /tmp",
    "ACL SETUSER default +@all",
    "ACL LIST",
    "MODULE LOAD /tmp/x.so",
    "DEBUG SEGFAULT",
    "SHUTDOWN ABORT",
    "SAVE",
    "BGREWRITEAOF",
    "REPLICAOF 192.0.2.1 6379",
    "MIGRATE 192.0.2.1 6379 k 0 10",
    "FLUSHALL",
    "CLIENT KILL ID 1",
    "SLOWLOG RESET",
    # Last: where it is allowed, the connection is of no use afterwards.
    "MONITOR",
]


class Redis:
    def __init__(self, host):
        self.host = host
        self.app = host.lab["app_name"]
        self.socket = host.lab["site_redis_socket"]
        self.unit = f"redis-server@{self.app}.service"

    def run(self, user: str, *lines: str):
        """Send commands as a user of the host, one connection."""
        feed = "printf '%%s\\n'" + " %s" * len(lines)
        return self.host.run(f"cd /; {feed} | timeout 20 runuser -u %s -- redis-cli -s %s", *lines, user, self.socket)

    def ask(self, *lines: str) -> list[str]:
        answer = self.run(self.app, *lines)
        assert answer.rc == 0, answer.stdout + answer.stderr
        return answer.stdout.splitlines()


@pytest.fixture(scope="module")
def redis(host) -> Redis:
    if not host.lab["app_redis"]:
        pytest.skip("app_redis is false in this inventory")
    return Redis(host)


def test_without_app_redis_there_is_none(host):
    if host.lab["app_redis"]:
        pytest.skip("app_redis is true in this inventory")
    assert not host.package("redis-server").is_installed


def test_it_runs_and_starts_at_boot(redis):
    service = redis.host.service(redis.unit)
    assert service.is_running, redis.host.run("journalctl --no-pager -n 30 -u %s", redis.unit).stdout
    assert service.is_enabled


def test_debians_own_instance_cannot_run(redis):
    for name in ("redis-server.service", "redis.service"):
        assert redis.host.run("systemctl is-active %s", name).stdout.strip() in ("inactive", "failed")
        assert redis.host.run("systemctl start %s", name).rc != 0
    assert redis.host.check_output("systemctl show --property=LoadState --value redis-server.service") == "masked"


def test_it_listens_on_no_tcp_port(redis):
    listening = redis.host.check_output("ss --no-header --tcp --udp --listening --numeric --processes")
    assert "redis" not in listening
    assert ":6379 " not in listening


def test_the_socket_is_the_applications(redis):
    folder = redis.socket.rsplit("/", 1)[0]
    shown = redis.host.check_output("stat --format=%s %s %s", "%U:%G %a", folder, redis.socket)
    assert shown.splitlines() == [f"redis:{redis.app} 750", f"redis:{redis.app} 770"]


def test_the_application_gets_an_answer(redis):
    assert redis.ask("PING") == ["PONG"]


@pytest.mark.parametrize("user", ["nobody", "www-data", "{app}_migrate"])
def test_other_users_of_the_host_do_not(redis, user):
    answer = redis.run(user.format(app=redis.app), "PING")
    assert "PONG" not in answer.stdout
    assert "Permission denied" in answer.stdout + answer.stderr


def test_what_a_cache_and_a_broker_need_works(redis):
    key = "redoubt:probe"
    commands = [f"SET {key} 1 EX 60", f"GET {key}", f"DEL {key}", f"RPUSH {key} job", f"BLPOP {key} 1", "PUBLISH redoubt:probe x"]
    assert redis.ask(*commands, "EVAL 'return 7' 0", "SELECT 1") == ["OK", "1", "1", "1", key, "job", "0", "7", "OK"]
    assert any(line.startswith("redis_version:") for line in redis.ask("INFO server"))


def test_the_application_may_empty_its_own_database(redis):
    # Queued and then dropped: Redis refuses at the queue what it would refuse to run.
    assert redis.ask("MULTI", "FLUSHDB", "DISCARD") == ["OK", "QUEUED", "OK"]


@pytest.fixture(scope="module")
def refusals(redis) -> list[str]:
    """What Redis answers to each of REFUSED, in one connection."""
    answers = []
    for command in REFUSED:
        # In a transaction that is dropped an allowed command would be queued and never run. These cannot be in one, and do no harm.
        alone = command in ("SAVE", "SHUTDOWN ABORT")
        answers += [command] if alone else ["MULTI", command, "DISCARD"]
        answers.append("ECHO ====")
    return "\n".join(redis.ask(*answers)).split("====")


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=REFUSED)
def test_the_application_may_not(refusals, number):
    assert len(refusals) == len(REFUSED) + 1
    assert "NOPERM" in refusals[number] or "command not allowed. If the enable-" in refusals[number], refusals[number]


def test_writes_go_to_disk(redis):
    state = dict(line.split(":", 1) for line in redis.ask("INFO persistence") if ":" in line)
    assert state["aof_enabled"] == "1"
    assert state["aof_last_write_status"] == "ok"
    assert redis.host.check_output("stat --format=%s %s", "%U %a", f"/var/lib/redis-{redis.app}") == "redis 700"


def test_memory_has_a_limit(redis):
    state = dict(line.split(":", 1) for line in redis.ask("INFO memory") if ":" in line)
    assert state["maxmemory"] == str(256 * 1024 * 1024)
    assert state["maxmemory_policy"] == "volatile-lru"


def test_the_unit_is_hardened(redis):
    wanted = {
        "User": "redis",
        "Group": redis.app,
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "PrivateNetwork": "yes",
        "PrivateUsers": "yes",
        "RestrictAddressFamilies": "AF_UNIX",
        "MemoryDenyWriteExecute": "yes",
        "ReadWritePaths": f"/var/lib/redis-{redis.app}",
        "NeedDaemonReload": "no",
    }
    shown = redis.host.check_output("systemctl show --property=%s %s", ",".join(wanted), redis.unit)
    assert dict(line.split("=", 1) for line in shown.splitlines()) == wanted


def test_its_exposure_is_low(redis):
    line = redis.host.check_output("systemd-analyze security --no-pager %s", redis.unit).splitlines()[-1]
    assert float(line.split(":")[1].split()[0]) <= 0.5, line


def test_the_running_process_is_in_the_sandbox(redis):
    pid = redis.host.check_output("systemctl show --property=MainPID --value %s", redis.unit)
    status = dict(line.split(":", 1) for line in redis.host.check_output("cat /proc/%s/status", pid).splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    # Its network namespace is its own and holds the loopback only.
    interfaces = redis.host.check_output("cat /proc/%s/net/dev", pid).splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
