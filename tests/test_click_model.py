"""The seam between a session and what runs the networks: another click model, in numpy alone, does all that a session needs, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fretsaw.errors import ModelError, ShapeError
from fretsaw.history import Step
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.types import Box, Click, Prompt
from numpy_model import NumpyClickModel
from tiny import tiny_sam, tiny_sam2

NO_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
try:
    import torch
    raise SystemExit("torch is not blocked")
except ImportError:
    pass
"""


def without_torch(code: str, *arguments: object) -> str:
    """Run code in a process where torch cannot be imported; return what it prints."""
    command = [sys.executable, "-c", NO_TORCH + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


PARTS = ["types", "frames", "edges", "outlines", "masks", "images", "segmentation", "history", "zoom", "session_file", "session", "api"]
PARTS += ["outputs", "server.app"]


def test_session_and_server_load_and_import_no_torch():
    code = f"import importlib\nfor name in {PARTS!r}:\n    importlib.import_module('fretsaw.' + name)\nprint('torch' in sys.modules)"
    assert without_torch(code).split() == ["False"]
    plain = "import sys, fretsaw, fretsaw.session, fretsaw.api; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, check=True).stdout.split() == ["False"]


SESSION = """
from pathlib import Path
import numpy as np
from fretsaw import session_file
from fretsaw.session import Session
from fretsaw.types import Box, Click
from fretsaw.zoom import ZoomRules
from numpy_model import NumpyClickModel

image = np.random.default_rng(0).integers(0, 60, (300, 400, 3), dtype=np.uint8)
image[100:180, 100:200] = 255
for refines in (False, True):
    model = NumpyClickModel(refines=refines)
    session = Session(image, model, zoom=ZoomRules())
    results = [session.result, session.click(150, 140), session.click(160, 150), session.click(30, 30, positive=False)]
    assert results[1].mask[140, 150] and not results[-1].mask[30, 30]
    results.append(session.click(190, 170))
    assert (session.step.view is not None) and model.looked > 1, "the small object is looked at alone"
    for result in reversed(results[:-1]):
        assert np.array_equal(session.undo().logits, result.logits)
    for result in results[1:]:
        assert np.array_equal(session.redo().logits, result.logits)
    path = session.save(Path(sys.argv[1]) / f"{refines}.session")
    embedding, history = session_file.read(path, image, model)
    again = Session(image, model, None, embedding, history, zoom=ZoomRules())
    assert np.array_equal(again.result.logits, session.result.logits)
    assert (again.step.refiner_state is not None) == refines
    assert np.array_equal(again.click(195, 150).logits, session.click(195, 150).logits)
    step = session_file.read_step(session_file.write_step(Path(sys.argv[1]) / "step", session.step))
    assert np.array_equal(session.sibling([*session.history[:-1], step]).result.logits, session.result.logits)
    session.reset()
    own = np.zeros((300, 400), bool)
    own[10:200, 10:200] = True
    assert np.array_equal(session.mask(own).mask, own)
    session.clicks([Click(20, 20), Click(390, 290, positive=False)], Box(5, 5, 300, 250))
    session.scribble([(20, 20), (60, 60)])
    assert session.nbytes > 0 and session.history_nbytes > 0
print("done")
"""


def test_a_session_over_numpy_alone_opens_clicks_zooms_undoes_and_saves_without_torch(tmp_path):
    assert without_torch(SESSION, tmp_path).split() == ["done"]


@pytest.mark.parametrize("failing", [2, 3])
def test_several_clicks_on_a_given_mask_are_one_entry_or_none(image, failing):
    """A refiner answers them one by one. Meanwhile, and after a failure, the session is what it was before."""

    class Watched(NumpyClickModel):
        def __init__(self) -> None:
            super().__init__(refines=True)
            self.seen: list[Step] = []

        def answer(self, seen, prompt, state=None):
            self.seen.append(session.step)
            if len(self.seen) == failing:
                raise ModelError("an answer failed")
            return super().answer(seen, prompt, state)

    model = Watched()
    session = Session(image, model)
    session.mask(image.mean(axis=2) > 127.5)
    session.mask(image.mean(axis=2) > 100.5)
    session.undo()
    before, undone = session.history, session.undone
    clicks = [Click(60, 45), Click(30, 30), Click(10, 10, positive=False)]
    with pytest.raises(ModelError, match="an answer failed"):
        session.clicks(clicks)
    assert (session.history, session.undone) == (before, undone)
    model.seen.append(session.step)  # no further answer fails
    session.clicks(clicks)
    assert set(map(id, model.seen)) == {id(before[-1])}
    assert session.history[:-1] == before
    assert session.step.prompt.clicks == tuple(clicks)
    assert session.undone == ()


SERVER = """
from pathlib import Path
import numpy as np
from starlette.testclient import TestClient
from fretsaw import images, session_file
from fretsaw.api import Segmenter
from fretsaw.catalog.entries import Parts
from fretsaw.server.app import create_app
from fretsaw.server.settings import ServerSettings
from fretsaw.session import Session
from numpy_model import NumpyClickModel

class NumpySegmenter(Segmenter):
    model = NumpyClickModel()

    def open(self, image, saved=None):
        embedding, history = session_file.read(Path(saved), image, self.model) if saved is not None else (None, ())
        return Session(image, self.model, None, embedding, history)

    def limit_threads(self, count):
        pass

folder, data = Path(sys.argv[1]) / "photos", Path(sys.argv[1]) / "data"
image = np.full((90, 120, 3), 30, np.uint8)
image[20:60, 30:80] = 250
images.write_image(folder / "a.png", image)
segmenter = NumpySegmenter("numpy", Parts(clicks=NumpySegmenter.model))
with TestClient(create_app(segmenter, ServerSettings(data=data, folder=folder, hosts=("testserver",), workers=1))) as client:
    identity = client.get("/api/images").json()["images"][0]["id"]
    number = client.post(f"/api/images/{identity}/objects", json={}).json()["id"]
    clicked = client.post(f"/api/images/{identity}/objects/{number}/clicks", json={"x": 50, "y": 40})
    assert clicked.status_code == 200, clicked.text
    assert clicked.json()["area"] > 0
    undone = client.post(f"/api/images/{identity}/objects/{number}/undo")
    assert undone.status_code == 200 and undone.json()["area"] == 0
    assert client.get(f"/api/images/{identity}/thumbnail.jpg").status_code == 200
assert (data / "images" / identity / "embedding.safetensors").exists()
print("torch" in sys.modules)
"""


def test_a_server_over_numpy_alone_answers_clicks_without_torch(tmp_path):
    assert without_torch(SERVER, tmp_path).split() == ["False"]


@pytest.fixture(params=[tiny_sam, tiny_sam2], ids=["SAM", "SAM 2"])
def model(request) -> TorchClickModel:
    return TorchClickModel(request.param(128))


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)


def test_an_embedding_is_unpacked_as_it_was_packed(model, image):
    seen = model.look(image)
    packed = model.pack(seen.embedding)
    assert {type(array) for array in packed.values()} == {np.ndarray}
    found = model.unpack({name: array.copy() for name, array in packed.items()})
    assert torch.equal(found.final, seen.embedding.final)
    assert all(torch.equal(one, other) for one, other in zip(found.high_res, seen.embedding.high_res, strict=True))
    assert found.nbytes == seen.nbytes == sum(array.nbytes for array in packed.values())


def test_an_embedding_of_another_shape_or_with_a_part_missing_is_refused(model, image):
    packed = model.pack(model.look(image).embedding)
    for name in packed:
        with pytest.raises(ShapeError, match=f"expected embedding.{name} .*, got none"):
            model.unpack({other: array for other, array in packed.items() if other != name})
        with pytest.raises(ShapeError, match=f"expected embedding.{name} "):
            model.unpack(packed | {name: packed[name][..., :-1]})


def test_an_embedding_holds_the_taps_that_were_asked_for_and_no_view_of_the_image_does(model, image):
    taps = model.network.encoder.available_taps
    assert not model.look(image).embedding.taps
    session = Session(image, model, taps=taps[:1])
    assert tuple(session.embedding.taps) == taps[:1]
    assert not session.views.seen(Box(0, 0, 40, 40)).embedding.taps
    with pytest.raises(ModelError, match=r"expected taps of the image encoder out of .*, got nonsense"):
        model.look(image, taps=("nonsense",))


def test_what_a_history_keeps_is_numpy_and_cannot_be_changed(model, image):
    session = Session(image, model)
    session.click(40, 30)
    session.mask(session.result.mask)
    session.click(20, 20)
    for step in session.history[1:]:
        assert isinstance(step.prompt.previous_logits, np.ndarray)
        with pytest.raises(ValueError, match="read-only"):
            step.prompt.previous_logits[:] = 0


def test_an_answer_is_the_same_whatever_was_asked_before(model, image):
    seen, prompt = model.look(image), Prompt((Click(40, 30),))
    first = model.answer(seen, prompt)
    model.answer(seen, Prompt((Click(4, 3, positive=False),), previous_logits=first.logits))
    again = model.answer(seen, prompt)
    assert np.array_equal(first.logits, again.logits)
    assert first.logits.shape == (1, 1, model.logit_side, model.logit_side)
    assert first.score == again.score
    assert (first.state, again.state) == (None, None)
    assert Step(Prompt(previous_logits=first.logits)).nbytes == first.logits.nbytes
