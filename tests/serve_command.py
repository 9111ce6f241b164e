"""The true command `fretsaw serve`, with a tiny random model in place of the default one: `python tests/serve_command.py ARGUMENTS`, or `Command` in a test.

FRETSAW_TEST_PAUSE makes every automatic cut as many seconds slower.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Command:
    """A server in a process of its own, as a user starts it; use it in a `with` block.

    Args:
        arguments: After `fretsaw serve`; a free port is taken.
        descriptors: If given, as many files and connections as it may have.
        pause: Seconds by which every automatic cut is slower.
        environment: Changes to it.
    """

    def __init__(self, *arguments: str | Path, descriptors: int | None = None, pause: float = 0.0, environment: dict[str, str] | None = None) -> None:
        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        changed = {**os.environ, "PYTHONPATH": path, "FRETSAW_TEST_PAUSE": str(pause), "OMP_NUM_THREADS": "1"} | (environment or {})
        command = [sys.executable, str(HERE / "serve_command.py"), *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=changed, preexec_fn=limit if descriptors else None
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(iter(self.process.stderr.readline, ""))

    @property
    def port(self) -> int:
        """Where it listens; behind a proxy, the printed address is the proxy's, and a line tells the own one."""
        ends = time.monotonic() + 10
        while time.monotonic() < ends and self.process.poll() is None:
            for line in (*self.said, self.line):
                if (found := re.search(r"http://(?:127[0-9.]+|localhost|\[::1\]|0\.0\.0\.0):([0-9]+)", line)) is not None:
                    return int(found[1])
            time.sleep(0.05)
        raise AssertionError(f"the command printed no address: {self.line!r} {self.said}")

    def terminate(self, patience: float = 30.0) -> float:
        """Tell it to end; return after how many seconds it did."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(patience)
        self._reader.join(2)
        return time.monotonic() - began

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def main() -> None:
    import fretsaw
    from fretsaw import cli
    from serving import tiny_segmenter

    pause = float(os.environ.get("FRETSAW_TEST_PAUSE", "0"))
    fretsaw.load = lambda *arguments, **named: tiny_segmenter(pause)
    sys.argv = ["fretsaw", "serve", *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
