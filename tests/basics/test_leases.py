"""A lease tells machines that share a folder who works there, without comparing their clocks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftlab.basics import leases
from ftlab.basics.leases import (
    EXPIRES_SECONDS,
    RENEW_SECONDS,
    Lease,
    LeaseLost,
    LeaseWatch,
    holder_of,
    kept,
)


class Machine:
    """A machine with a clock of its own, which starts anywhere."""

    def __init__(self, name: str, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.now, self._patch = name, now, monkeypatch
        self.watch = LeaseWatch(lambda: self.now)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self._patch.context() as patch:
            patch.setattr(leases, "boot_id", lambda: f"boot of {self.name}")
            patch.setattr(leases.platform, "node", lambda: self.name)
            yield

    def lease(self, folder: Path) -> Lease:
        return Lease(folder, self.watch, lambda: self.now)

    def takes(self, folder: Path) -> Lease | None:
        with self.at_work():
            found = self.lease(folder)
            return found if found.try_acquire() else None

    def sees(self, folder: Path) -> str | None:
        """The other machine that is at work there."""
        with self.at_work():
            holder = self.watch.lives_elsewhere(folder)
            return None if holder is None else holder.node


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine("one", 1e6, monkeypatch)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine("other", 5.0, monkeypatch)


def test_while_the_holder_counts_up_no_other_machine_gets_the_lease(
    tmp_path: Path, one: Machine, other: Machine
) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    for _ in range(20):
        assert other.sees(tmp_path) == "one"
        assert other.takes(tmp_path) is None
        one.now += RENEW_SECONDS
        other.now += RENEW_SECONDS
        held.renew()
        held.check()


def test_a_count_that_stands_still_is_taken_over_and_the_older_holder_writes_nothing_more(
    tmp_path: Path, one: Machine, other: Machine
) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    assert other.sees(tmp_path) == "one", "at the first look nobody knows, so it counts as alive"
    other.now += EXPIRES_SECONDS - 1
    assert other.takes(tmp_path) is None
    other.now += 2
    assert other.sees(tmp_path) is None
    assert other.takes(tmp_path) is not None
    assert one.sees(tmp_path) == "other"
    one.now += EXPIRES_SECONDS  # it wakes up
    for act in (held.check, held.renew):
        with pytest.raises(LeaseLost, match="'other' has taken over"):
            act()
    held.release()
    holder = holder_of(tmp_path)
    assert holder is not None
    assert (holder.node, holder.generation) == ("other", 2)
    assert os.listdir(tmp_path) == ["lease.2"]


def test_a_holder_is_known_to_be_alive_once_it_was_seen_to_count(
    tmp_path: Path, one: Machine, other: Machine
) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    with other.at_work():
        assert not other.watch.has_counted(tmp_path)
        one.now += RENEW_SECONDS
        other.now += RENEW_SECONDS
        held.renew()
        assert other.watch.has_counted(tmp_path)
        other.now += EXPIRES_SECONDS + 1
        other.watch.lives_elsewhere(tmp_path)
        other.now += EXPIRES_SECONDS + 1
        assert not other.watch.has_counted(tmp_path)


def test_a_holder_that_was_not_late_does_not_look(tmp_path: Path, one: Machine) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    (tmp_path / "lease.7").write_text("0\n{}\n")
    one.now += EXPIRES_SECONDS / 2 - 1
    held.check()
    one.now += 2
    with pytest.raises(LeaseLost):
        held.check()


def test_a_released_lease_is_free_at_once(tmp_path: Path, one: Machine, other: Machine) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    assert other.takes(tmp_path) is None
    held.release()
    assert os.listdir(tmp_path) == []
    assert other.takes(tmp_path) is not None


def test_a_number_that_is_given_again_does_not_deceive_an_older_holder(
    tmp_path: Path, one: Machine, other: Machine
) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    (tmp_path / "lease.1").unlink()  # taken over, released, and taken by a third
    assert other.takes(tmp_path) is not None
    one.now += EXPIRES_SECONDS
    with pytest.raises(LeaseLost):
        held.check()


def test_of_two_machines_that_take_over_at_one_moment_one_succeeds(
    tmp_path: Path, one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = Machine("third", 77.0, monkeypatch)
    assert one.takes(tmp_path)
    for machine in (other, third):
        assert machine.sees(tmp_path) == "one"
        machine.now += EXPIRES_SECONDS + 1
    seen = holder_of(tmp_path)
    with monkeypatch.context() as patch:  # both have looked before either makes its file
        patch.setattr(leases, "holder_of", lambda folder: seen)
        taken = [machine.takes(tmp_path) is not None for machine in (other, third)]
    assert taken == [True, False]
    third.now += 2
    assert third.sees(tmp_path) == "other"


def test_on_the_holders_own_machine_the_flock_alone_decides(tmp_path: Path, one: Machine) -> None:
    assert one.takes(tmp_path) is not None  # and its process dies
    assert one.sees(tmp_path) is None
    again = one.takes(tmp_path)
    assert again is not None
    assert again._generation == 2


def test_without_boot_ids_the_names_tell_machines_apart(
    tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "boot_id", lambda: "")
    for name in ("mac", "mini"):
        monkeypatch.setattr(leases.platform, "node", lambda name=name: name)
        if name == "mac":
            assert Lease(tmp_path, LeaseWatch()).try_acquire()
            assert LeaseWatch().lives_elsewhere(tmp_path) is None
        else:
            assert LeaseWatch().lives_elsewhere(tmp_path) is not None


@pytest.mark.parametrize("content", [b"", b"7", b"x\n{}", b"1\n[]", b"\xff\n{}", b'1\n{"node": 1}'])
def test_a_torn_file_counts_as_a_holder_that_does_not_count_up(
    tmp_path: Path, other: Machine, content: bytes
) -> None:
    (tmp_path / "lease.3").write_bytes(content)
    assert other.takes(tmp_path) is None
    other.now += EXPIRES_SECONDS + 1
    assert other.takes(tmp_path) is not None


def test_a_full_disk_makes_the_holder_late_but_it_goes_on(
    tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = one.takes(tmp_path)
    assert held is not None

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    one.now += RENEW_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(leases.os, "pwrite", full)
        held.renew()
    assert holder_of(tmp_path).count == 0  # type: ignore[union-attr]
    held.renew()
    assert holder_of(tmp_path).count == 2  # type: ignore[union-attr]
    held.check()


@pytest.mark.parametrize("is_taken_over", [True, False], ids=["then released", "with the folder"])
def test_a_lease_that_is_gone_is_lost(
    tmp_path: Path, one: Machine, other: Machine, is_taken_over: bool
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    held = one.takes(folder)
    assert held is not None
    if is_taken_over:
        assert other.sees(folder) == "one"
        other.now += EXPIRES_SECONDS + 1
        later = other.takes(folder)
        assert later is not None
        later.release()
    else:
        (folder / "lease.1").unlink()
        folder.rmdir()
    one.now += EXPIRES_SECONDS
    for act in (held.check, held.renew):
        with pytest.raises(LeaseLost, match="is gone"):
            act()
    held.release()


def test_storage_that_is_away_is_no_loss(
    tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    one.now += EXPIRES_SECONDS

    def away(*_: object) -> int:
        raise OSError(errno.EIO, "away")

    with monkeypatch.context() as patch:
        patch.setattr(leases.os, "open", away)
        held.check()
        held.renew()
    held.renew()
    assert holder_of(tmp_path).count == 2  # type: ignore[union-attr]


def test_an_old_file_is_shown_as_dead_at_the_first_look_but_nobody_takes_over_by_that(
    tmp_path: Path, one: Machine, other: Machine
) -> None:
    held = one.takes(tmp_path)
    assert held is not None
    os.utime(tmp_path / "lease.1", (1, 1))
    assert other.sees(tmp_path) is None
    assert other.takes(tmp_path) is None
    one.now += RENEW_SECONDS
    other.now += RENEW_SECONDS
    held.renew()
    os.utime(tmp_path / "lease.1", (1, 1))
    assert other.sees(tmp_path) == "one", "it counts up, whatever its clock says"


def test_a_full_disk_leaves_no_empty_lease(
    tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(leases.json, "dumps", full)
        with pytest.raises(OSError, match="full"):
            one.takes(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.hostile("leases")
@pytest.mark.parametrize(
    "content", [b"0\n" + b"[" * 990, b'0\n{"node":"\\ud800\\u202e","boot":"b","mark":"m"}']
)
def test_a_hostile_lease_is_a_holder_with_a_name_that_can_be_shown(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "lease.1").write_bytes(content)
    (tmp_path / "lease.\u0669").write_text("")

    def deep(depth: int) -> str:
        if depth:
            return deep(depth - 1)
        holder = holder_of(tmp_path)
        assert holder is not None
        return holder.node

    assert deep(200) == ""


def test_a_thread_counts_up_and_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    held, looks = Lease(tmp_path, LeaseWatch()), list[int]()
    assert held.try_acquire()
    with kept(held, lambda: looks.append(1), lambda why: None):
        deadline = leases.seconds() + 20
        while (holder := holder_of(tmp_path)) and holder.count < 3:
            assert leases.seconds() < deadline
    assert len(looks) >= 2
    held.release()
