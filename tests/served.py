"""A server over the tiny model of `serving.py` in a process of its own, which a test can signal and kill."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx

SERVING = Path(__file__).with_name("serving.py")


class ServerProcess:
    """Serves a folder of pictures on a free port until it is killed.

    Args:
        folder: Of pictures.
        data: Where it keeps its work.
        pause: Seconds that an automatic cut takes.
    """

    def __init__(self, folder: Path, data: Path, pause: float = 0.0) -> None:
        # The package under test may come by PYTHONPATH; the process must not find another one.
        path = os.pathsep.join(filter(None, (str(SERVING.parent), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, str(SERVING), str(folder), str(data), str(pause)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.base = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.base, timeout=60)

    def kill(self) -> None:
        """End it at once; other threads may still be asking."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def memory(self) -> int:
        """Bytes of resident memory now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
