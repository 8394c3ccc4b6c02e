"""A process of another machine that shares the folder: another boot, another name, its own locks.

Its arguments are the machine's name, a module to run, and that module's own; `start` starts it.
`FTLAB_TEST_EXPIRES` shortens the seconds after which a lease expires.
"""

from __future__ import annotations

import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path

from ftlab.basics import leases, locks, processes
from ftlab.basics.files import locks_folder

EXPIRES = "FTLAB_TEST_EXPIRES"


def start(node: str, module: str, *arguments: str, expires: float) -> subprocess.Popen[bytes]:
    """Starts a module there."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.another_machine", node, module, *arguments],
        env=os.environ | {EXPIRES: str(expires), "FTLAB_LOCKS": f"{locks_folder()}-{node}"},
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


def be(node: str) -> None:
    """Makes this process one of that machine, as far as ftlab can tell."""
    expires = float(os.environ.get(EXPIRES, leases.EXPIRES_SECONDS))
    platform.node = lambda: node
    processes.boot_id = leases.boot_id = lambda: f"boot of {node}"
    leases.EXPIRES_SECONDS, leases.RENEW_SECONDS = expires, expires / 6
    whole = locks.FileLock.__init__

    def init(lock: locks.FileLock, path: Path) -> None:
        """An flock of one machine says nothing to another; devices are the machine's own."""
        is_own = path.parent == locks_folder()
        whole(lock, path if is_own else path.with_name(f".{path.name}.{node}"))

    locks.FileLock.__init__ = init  # type: ignore[method-assign]


if __name__ == "__main__":
    be(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
