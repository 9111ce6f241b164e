"""A client of a server over a tiny model, with three pictures in its folder."""

from __future__ import annotations

import pytest

from serving import make_folder, settings_of, tiny_segmenter

pytest.importorskip("fastapi", reason="needs the extra 'serve'")


@pytest.fixture(scope="session")
def segmenter():
    return tiny_segmenter()


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "photos")


@pytest.fixture
def make_client(segmenter, folder, tmp_path):
    """Return a function that starts a server with changed settings, on the same data folder, and gives a client of it; the server before it ends first."""
    from starlette.testclient import TestClient

    from fretsaw.server.app import create_app

    clients = []

    def close():
        while clients:
            clients.pop().__exit__(None, None, None)

    def make(model=None, **changes):
        close()  # a data folder has one owner
        client = TestClient(create_app(model or segmenter, settings_of(folder, tmp_path / "data", **changes)), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    close()


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def first(client):
    """The address of the folder's first picture."""
    return f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"


@pytest.fixture
def make_bench(segmenter, folder, tmp_path):
    """Return a function that gives a server's workbench without the server; those before it end first."""
    from fretsaw.server.workbench import Workbench

    benches = []

    def close():
        while benches:
            benches.pop().close()

    def make(model=None, **changes):
        close()  # a data folder has one owner
        benches.append(Workbench(model or segmenter, settings_of(folder, tmp_path / "data", **changes)))
        return benches[-1]

    yield make
    close()
