"""What of this machine a run would use, and whether a run would work: the checks of `mfd doctor`.

A check that `stops` says why no run can work here; one with a `note` alone is worth knowing.
Nothing here tells the value of a variable that may hold a password: proxies go by name.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass

from joblib import cpu_count
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mfd_flower.config import TrainConfig
from mfd_flower.finding import ROOT

NAME = "mfd-flower"
SHOWN = ("flwr", "lightning", "torch", "timm", "peft", "torchmetrics")
"""Packages that are named whatever their version is; others only if no run works with them."""
DEVELOPERS = "dev"
"""The extra that brings what tests and documentation need."""
PROXIES = re.compile(r"(http|https|all|grpc|ftp|no|no_grpc)_proxy", re.IGNORECASE)
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Of a container; ``max`` if it has none."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: Any
    """As JSON has it."""
    shown: str
    """The same for a person."""
    note: str = ""
    stops: bool = False
    """Whether no run would work, for what `note` says."""


def checks() -> list[Check]:
    """Look at everything a run needs."""
    return [check for look in LOOKS for check in _looked(look)]


def _looked(look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield what `look` finds, and what it fails of, which a run would fail of too."""
    try:
        yield from look()
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        yield Check(look.__name__.strip("_").replace("_", " "), None, "not usable", said, True)


def _python() -> Iterator[Check]:
    found, accepted = platform.python_version(), metadata(NAME)["Requires-Python"]
    fits = SpecifierSet(accepted).contains(found)
    yield Check("Python", found, found, "" if fits else f"accepted: {accepted}", not fits)


def _cores() -> Iterator[Check]:
    yield Check("cores", cpu_count(), str(cpu_count()), "runs side by side on the CPU: one a core")


def _memory() -> Iterator[Check]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = MEMORY_LIMIT.read_text().strip() if MEMORY_LIMIT.exists() else "max"
    usable = total if limit == "max" else min(total, int(limit))
    yield Check("memory", usable, _gigabytes(usable), "of a container" if usable < total else "")


def _accelerator() -> Iterator[Check]:
    import torch

    from mfd_flower.models.devices import device_for, device_name

    device = device_for(TrainConfig())
    name = device_name(device)
    found: dict[str, Any] = {"device": name}
    if device.type == "cuda":
        found["free_bytes"], found["memory_bytes"] = torch.cuda.mem_get_info(device)
        name += f", {_gigabytes(found['free_bytes'])} of {_gigabytes(found['memory_bytes'])} free"
    yield Check("accelerator", found, name, "what train.accelerator = auto takes")


def _packages() -> Iterator[Check]:
    tried = _tried_versions()
    for needed in _needed(""):
        found = _version_of(needed.name)
        fits = found is not None and needed.specifier.contains(found, prereleases=True)
        if not fits:
            accepted = f"accepted: {needed.specifier}; pip install '{needed}'"
            yield Check(needed.name, found, found or "missing", accepted, True)
        elif needed.name in SHOWN:
            other = tried.get(needed.name, found) != found
            note = f"; tests ran with {tried[needed.name]}" if other else ""
            yield Check(needed.name, found, str(found), f"accepted: {needed.specifier}{note}")


def _extras() -> Iterator[Check]:
    for extra in sorted({*(metadata(NAME).get_all("Provides-Extra") or ())} - {DEVELOPERS}):
        missing = [each.name for each in _needed(extra) if _version_of(each.name) is None]
        remedy = f"lacks {', '.join(missing)}; pip install '{NAME}[{extra}]'" if missing else ""
        found = {"missing": missing}
        yield Check(f"extra {extra}", found, "absent" if missing else "present", remedy)


def _feature_cache() -> Iterator[Check]:
    from mfd_flower.models.features import budget_bytes

    budget, free = budget_bytes(), shutil.disk_usage(Path.cwd()).free
    shown = f"up to {_gigabytes(budget)} in .features of --out while runs go on"
    short = "; the disk has less: what finds no room is computed again" if free < budget else ""
    found = {"budget_bytes": budget, "free_bytes": free}
    yield Check("feature cache", found, shown, f"MFD_CACHE_GB or --cache-gb changes it{short}")


def _weights() -> Iterator[Check]:
    from mfd_flower.models.backbones import FETCHED, fetched_file

    there = {name: fetched_file(name).is_file() for name in FETCHED}
    shown = ", ".join(f"{name} {'present' if each else 'absent'}" for name, each in there.items())
    place = fetched_file(next(iter(FETCHED))).parent
    yield Check("fetched weights", there, shown, f"in {place}; make NAME fetches them")


def _folders() -> Iterator[Check]:
    yield _folder("results", Path.cwd(), "--out names another folder")
    # Without it no process of a comparison starts.
    yield _folder("temporary files", Path(tempfile.gettempdir()), "TMPDIR names another folder")


def _folder(use: str, folder: Path, remedy: str) -> Check:
    found: dict[str, Any] = {"path": str(folder), "writable": True}
    try:
        with tempfile.TemporaryFile(dir=folder):
            found["free_bytes"] = shutil.disk_usage(folder).free
    except OSError as error:
        note = f"not writable ({error.strerror}); {remedy}"
        return Check(f"folder for {use}", found | {"writable": False}, str(folder), note, True)
    shown = f"{folder}, {_gigabytes(found['free_bytes'])} free"
    return Check(f"folder for {use}", found, shown)


def _ports() -> Iterator[Check]:
    taken = {use: port for use, port in flower_ports().items() if not _is_free(port)}
    numbers = ", ".join(f"{port} ({use})" for use, port in taken.items())
    note = "only flwr run and a SuperLink need them; one that was started before may have them"
    ports = sorted(flower_ports().values())
    free = f"free: {', '.join(str(port) for port in ports if port not in taken.values())}"
    found = {"ports": ports, "taken": sorted(taken.values())}
    yield Check("Flower's ports", found, free, f"taken: {numbers}; {note}" if taken else "")


def flower_ports() -> dict[str, int]:
    """Return the ports on loopback that Flower's engines listen on unless told otherwise."""
    from flwr.cli.constant import LOCAL_CONTROL_API_PORT, LOCAL_SUPERLINK_HTTP_API_PORT
    from flwr.common.constant import CONTROL_API_PORT, FLEETAPI_GRPC_RERE_PORT
    from flwr.supercore.constant import SUPERLINK_UVICORN_DEFAULT_PORT as SUPERLINK
    from flwr.supercore.constant import SUPERNODE_UVICORN_DEFAULT_PORT as SUPERNODE

    return {
        "SuperLink": SUPERLINK,
        "fleet": int(FLEETAPI_GRPC_RERE_PORT),
        "control": int(CONTROL_API_PORT),
        "SuperNode": SUPERNODE,
        "flwr run": int(LOCAL_SUPERLINK_HTTP_API_PORT),
        "control of flwr run": int(LOCAL_CONTROL_API_PORT),
    }


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        # What has just been closed counts as free, as it does to a server.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _proxies() -> Iterator[Check]:
    names = sorted(name for name in os.environ if PROXIES.fullmatch(name) and os.environ[name])
    proxied = any(not name.lower().startswith("no") for name in names)
    lost = proxied and not all(map(proxy_bypass, ("127.0.0.1", "localhost")))
    note = "no_proxy lacks 127.0.0.1,localhost, without which no SuperLink starts" if lost else ""
    yield Check("proxies set", names, ", ".join(names) or "none", note)


LOOKS: tuple[Callable[[], Iterator[Check]], ...] = (
    *(_python, _cores, _memory, _accelerator, _packages, _extras),
    *(_feature_cache, _weights, _folders, _ports, _proxies),
)


def _needed(extra: str) -> list[Requirement]:
    """Return what the package needs, or what an extra of it adds."""
    found = [Requirement(line) for line in requires(NAME) or ()]
    own = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return own
    return [r for r in found if r not in own and r.marker and r.marker.evaluate({"extra": extra})]


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tried_versions() -> Mapping[str, str]:
    """Return the versions that the tests ran with, where this is a checkout that says so."""
    file = ROOT / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {name.lower(): found for name, _, found in (line.partition("==") for line in lines)}


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.3g} GB"
