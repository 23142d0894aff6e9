"""`mfd doctor` says what a run will find here, status 1 if it would fail, and no secret."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from joblib import cpu_count

from mfd_flower import machine
from mfd_flower.config import TrainConfig
from mfd_flower.models import devices
from tests.test_cli import call

Capture = pytest.CaptureFixture[str]
PROXY = "http://user:geheim@proxy.example:3128"


@pytest.fixture(autouse=True)
def _plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin in an empty folder, without what the machine's user has set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MFD_CACHE_GB", raising=False)
    for name in [name for name in machine.os.environ if machine.PROXIES.fullmatch(name)]:
        monkeypatch.delenv(name)


def told(capsys: Capture) -> tuple[int, dict[str, Any], str]:
    code, out, err = call(capsys, "doctor", "--json")
    return code, json.loads(out), err


def test_what_it_says_is_what_a_run_takes(capsys: Capture) -> None:
    code, said, err = told(capsys)
    assert (code, err, said["works"], said["reasons"]) == (0, "", True, [])
    found = {name: check["found"] for name, check in said["checks"].items()}
    assert found["cores"] == cpu_count()
    device = devices.device_for(TrainConfig())
    assert found["accelerator"]["device"] == devices.device_name(device)
    assert {name: found[name] for name in machine.SHOWN} == {
        name: version(name) for name in machine.SHOWN
    }
    assert found["feature cache"]["budget_bytes"] == 2e9
    assert found["extra onnx"] == {"missing": []}
    assert found["folder for results"]["path"] == str(Path.cwd())
    assert not any(Path.cwd().iterdir())


def test_the_table_has_every_check(capsys: Capture) -> None:
    code, out, err = call(capsys, "doctor")
    assert (code, err) == (0, "")
    assert all(check.name in out for check in machine.checks())


@pytest.mark.parametrize(
    ("package", "found", "said"),
    [
        ("flwr", "1.42.0", "flwr: 1.42.0: accepted: "),
        ("torch", None, "torch: missing: accepted: "),
        # One that is not named while it is right.
        ("scipy", "0.1", "scipy: 0.1: accepted: "),
    ],
)
def test_a_package_that_is_missing_or_of_another_version_stops(
    package: str, found: str | None, said: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(name: str) -> str:
        if name != package:
            return version(name)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(machine, "version", other)
    code, stdout, err = call(capsys, "doctor")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"mfd: no run would work here: {said}")
    assert "pip install" in err
    assert package in stdout


def test_what_cannot_be_looked_at_stops_and_hides_nothing_else(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: TrainConfig) -> None:
        raise OSError("libcuda.so: [no]\nsuch file")

    monkeypatch.setattr(devices, "device_for", broken)
    code, said, err = told(capsys)
    reason = "accelerator: not usable: OSError: libcuda.so: [no] such file"
    assert (code, said["reasons"]) == (1, [reason])
    assert err == f"mfd: no run would work here: {reason}\n"
    assert {"cores", "memory", "flwr", "proxies set"} <= said["checks"].keys()


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_budget_that_a_run_refuses_stops(
    text: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFD_CACHE_GB", text)
    code, said, _ = told(capsys)
    assert code == 1
    assert "MFD_CACHE_GB" in said["reasons"][0]


def test_a_folder_that_takes_no_file_stops(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")  # Root may write elsewhere.
    code, said, err = told(capsys)
    assert (code, said["checks"]["folder for results"]["found"]["writable"]) == (1, False)
    assert "folder for results: /proc: not writable" in err
    assert said["checks"]["folder for temporary files"]["found"]["writable"]


def test_a_containers_memory_is_its_limit(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path / "memory.max")
    whole = told(capsys)[1]["checks"]["memory"]["found"]
    for text, usable in (("1000000", 1_000_000), ("max", whole), (f"{10**18}", whole)):
        (tmp_path / "memory.max").write_text(f"{text}\n")
        assert told(capsys)[1]["checks"]["memory"]["found"] == usable


@pytest.fixture
def listening() -> Iterator[int]:
    """Give a port of loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_named_and_stops_nothing(
    listening: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    monkeypatch.setattr(machine, "flower_ports", lambda: {"fleet": listening, "control": free})
    code, said, _ = told(capsys)
    check = said["checks"]["Flower's ports"]
    assert (code, check["found"]["taken"]) == (0, [listening])
    assert f"taken: {listening} (fleet)" in check["note"]
    assert str(free) not in check["note"]


def test_flowers_ports_are_those_that_its_documentation_names() -> None:
    assert {9092, 9093, 39093} <= {*machine.flower_ports().values()}


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"]])
def test_proxies_are_told_by_name_and_never_by_value(
    words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("grpc_proxy", PROXY)
    code, out, err = call(capsys, *words)
    assert code == 0
    assert "HTTPS_PROXY" in out
    assert "grpc_proxy" in out
    assert not any(secret in out + err for secret in ("geheim", "proxy.example", "3128"))


def test_a_proxy_in_front_of_loopback_is_noted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    assert "no_proxy lacks" in told(capsys)[1]["checks"]["proxies set"]["note"]
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert told(capsys)[1]["checks"]["proxies set"]["note"] == ""
