"""Writes the server's OpenAPI document, from which the types of the page's checks are made: `python tests/page/openapi.py FILE`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from starlette.testclient import TestClient

from fretsaw.server.app import create_app
from serving import settings_of, tiny_segmenter


def main() -> None:
    """Ask a server over a tiny model, so that the document is the one that clients get."""
    with tempfile.TemporaryDirectory() as data, TestClient(create_app(tiny_segmenter(), settings_of(None, Path(data)))) as client:
        document = client.get("/openapi.json").json()
    Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
