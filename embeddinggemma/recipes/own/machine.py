"""Memory of this machine and of this process, in bytes."""

import os
import pathlib

import jax

GB = 10**9
_CGROUP = pathlib.Path("/sys/fs/cgroup")


def held() -> int:
  """Bytes that this process holds: resident, or on its fullest accelerator."""
  if on_host():
    pages = pathlib.Path("/proc/self/statm")
    if not pages.is_file():
      return 0
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  return max(_stat(device, "bytes_in_use") for device in jax.local_devices())


def room() -> int:
  """Bytes that this process may hold in all, with those it holds now."""
  if on_host():
    return held() + int(min(_available(), _group_room()))
  return min(_stat(device, "bytes_limit") for device in jax.local_devices())


def on_host() -> bool:
  """Whether programs run in the memory of this machine itself."""
  return jax.default_backend() == "cpu"


def _stat(device: jax.Device, name: str) -> int:
  return int((device.memory_stats() or {}).get(name, 0))


def _available() -> int:
  """Bytes that the kernel can give without swapping, or all if unknown."""
  path = pathlib.Path("/proc/meminfo")
  for line in path.read_text().splitlines() if path.is_file() else ():
    name, _, value = line.partition(":")
    if name == "MemAvailable":
      return int(value.split()[0]) * 1024
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_room() -> float:
  """Bytes that the container's limit leaves; infinity if it has none."""
  limit, used = (
    _number(_CGROUP / f"memory.{name}") for name in ("max", "current")
  )
  if limit is None or used is None:
    return float("inf")
  return max(limit - used + _cached(_CGROUP / "memory.stat"), 0)


def _number(path: pathlib.Path) -> int | None:
  """The number in a file; None if there is no file or it says "max"."""
  text = path.read_text().strip() if path.is_file() else ""
  return int(text) if text.isdigit() else None


def _cached(path: pathlib.Path) -> int:
  """Bytes of cached files that count for a container but are given back."""
  for line in path.read_text().splitlines() if path.is_file() else ():
    name, _, value = line.partition(" ")
    if name == "inactive_file":
      return int(value)
  return 0
