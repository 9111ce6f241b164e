"""A whole job on the page, in a real browser: open, look at the automatic mask, correct it, name it, reload, export what the server has."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright, which is in the extra 'dev'")

from browser import Hand, find_chromium, launched, open_page
from fretsaw import masks
from fretsaw.images import encode_image, read_mask
from fretsaw.interchange import coco
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from serving import make_folder, photo

SERVING = Path(__file__).resolve().parents[1] / "serving.py"


@pytest.fixture(scope="module")
def chromium():
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or FRETSAW_CHROMIUM=PATH")
    with launched(path) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server over a tiny model in a process of its own."""
    place = tmp_path_factory.mktemp("page")
    make_folder(place / "photos")
    command = [sys.executable, str(SERVING), str(place / "photos"), str(place / "data")]
    environment = {**os.environ, "PYTHONPATH": str(SERVING.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def objects_of(hand: Hand) -> list[dict]:
    return hand.picture()["objects"]


def test_a_whole_job(chromium, address, tmp_path):
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        [automatic] = objects_of(hand)
        assert np.array_equal(masks.decode_rle(automatic["rle"]), photo(0).mean(axis=2) > 127.5)
        hand.click(60, 45)
        hand.click(20, 70, positive=False)
        [item] = objects_of(hand)
        assert [click[2] for click in item["clicks"]] == [True, False]
        assert np.allclose([click[:2] for click in item["clicks"]], [(60, 45), (20, 70)], atol=0.6)
        hand.press("z")
        hand.press("z")
        assert objects_of(hand)[0]["rle"] == automatic["rle"]
        hand.press("Shift+Z")
        hand.name("ball <i>one</i>")
        before = objects_of(hand)
        assert (before[0]["name"], before[0]["undoable"], before[0]["redoable"]) == ("ball <i>one</i>", 2, 1)
        page.reload()
        hand.settle()
        assert objects_of(hand) == before
        assert page.input_value("#objects li.active .name") == "ball <i>one</i>"
        path = hand.export("png", tmp_path)
        assert np.array_equal(read_mask(path) > 0, masks.decode_rle(before[0]["rle"]))
        packed = zipfile.ZipFile(io.BytesIO(hand.export("png", tmp_path, everything=True).read_bytes()))
        assert np.array_equal(read_mask(packed.read("0/01-ball_i_one_i.png")) > 0, masks.decode_rle(before[0]["rle"]))


def test_box_brush_several_objects_and_taking_back(chromium, address):
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        hand.choose_picture("1.png")
        hand.press("n")
        assert len(objects_of(hand)) == 2
        hand.press("2")
        hand.drag(30, 20, 90, 70)
        item = objects_of(hand)[1]
        assert item["prompt_box"] == pytest.approx([30, 20, 90, 70], abs=1)
        hand.press("3")
        hand.drag(2, 2, 2, 60)
        painted = masks.decode_rle(objects_of(hand)[1]["rle"])
        assert painted[5:55, 2].all()
        hand.press("4")
        hand.drag(2, 2, 2, 60)
        erased = masks.decode_rle(objects_of(hand)[1]["rle"])
        assert not erased[5:55, 2].any()
        assert np.array_equal(erased[:, 40:], painted[:, 40:])
        hand.press("z")
        assert np.array_equal(masks.decode_rle(objects_of(hand)[1]["rle"]), painted)
        # Strokes that do not wait for each other, and a click right behind them, which belongs to the next object.
        hand.press("3")
        for x in (20, 60, 100):
            hand.sweep(x, 80, x + 4, 84)
        for key in ("z", "n", "1"):
            page.keyboard.press(key)
        hand.click(60, 45)
        objects = objects_of(hand)
        assert (objects[1]["undoable"], objects[1]["redoable"], objects[2]["undoable"]) == (4, 1, 1)
        twice = masks.decode_rle(objects[1]["rle"])
        assert twice[82, 21:63:40].all()
        assert np.array_equal(twice[:, 90:], painted[:, 90:])
        hand.press("Delete")
        hand.press("Delete")
        assert len(objects_of(hand)) == 1
        page.click("#toast button")
        page.wait_for_selector("#objects li:nth-child(2)")
        hand.settle()
        assert np.array_equal(masks.decode_rle(objects_of(hand)[1]["rle"]), twice)


def test_a_resting_pointer_shows_what_a_click_would_give(chromium, address):
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        hand.press("n")
        before = hand.picture()
        with page.expect_response("**/preview") as answer:
            page.mouse.move(*hand.at(60, 45))
        preview = masks.decode_rle(answer.value.json()["rle"])
        page.wait_for_selector("#canvas[data-preview=true]")
        y, x = np.argwhere(preview)[preview.sum() // 3]
        pixel = """([x, y]) => {
            const canvas = document.getElementById("canvas"), { left, top } = canvas.getBoundingClientRect(), ratio = devicePixelRatio;
            return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
                done([...canvas.getContext("2d").getImageData((x - left) * ratio, (y - top) * ratio, 1, 1).data]))));
        }"""
        tinted = page.evaluate(pixel, [*hand.at(float(x), float(y))])
        page.keyboard.press("p")
        page.wait_for_selector("#canvas[data-preview=false]")
        plain = page.evaluate(pixel, [*hand.at(float(x), float(y))])
        assert np.abs(np.subtract(tinted, plain)).max() > 10
        assert hand.picture() == before
        page.keyboard.press("p")


def test_parts_of_an_automatic_mask_become_objects(chromium, address, tmp_path):
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        hand.choose_picture("1.png")
        hand.press("n")
        page.keyboard.press("Shift+A")
        page.wait_for_function("() => document.querySelector('#toast').textContent.includes('2 separate parts')")
        hand.settle()
        parts = objects_of(hand)[-1]["parts"]
        page.reload()
        hand.settle()
        assert objects_of(hand)[-1]["parts"] == parts
        page.click('li.active [data-part="split"]')
        hand.settle()
        halves = [masks.decode_rle(item["rle"]) for item in objects_of(hand)[-2:]]
        assert [half.sum() for half in halves] == [part["area"] for part in parts]
        assert np.array_equal(halves[0] | halves[1], photo(1).mean(axis=2) > 127.5)


def test_the_keyboard_alone_does_it(chromium, address):
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        hand.press("PageDown")
        hand.press("PageDown")
        assert hand.picture()["name"] == "deep/2.png"
        page.keyboard.press("n")
        page.keyboard.press("1")
        for key in ("ArrowRight", "Shift+ArrowDown", "Enter"):
            page.keyboard.press(key)
        hand.settle()
        page.keyboard.press("Shift+ArrowLeft")
        hand.press("Backspace")
        clicks = objects_of(hand)[-1]["clicks"]
        assert [click[2] for click in clicks] == [True, False]
        assert clicks[1][0] < clicks[0][0]
        page.keyboard.press("?")
        assert page.is_visible("#help-window kbd")
        page.keyboard.press("Escape")
        unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, canvas')].filter(
            (item) => item.checkVisibility() && !item.ariaLabel && !item.textContent.trim() && !item.labels?.length).map((item) => item.outerHTML)""")
        assert unnamed == []


def test_pictures_are_dropped_on_the_page(chromium, address, tmp_path):
    path = tmp_path / "dropped <b>.png"
    path.write_bytes(encode_image(photo(9, 700, 900), ".png"))
    (tmp_path / "page.jpg").write_text("<html>no picture</html>")
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        page.set_input_files("#file", [path])
        page.wait_for_function("() => document.title.startsWith('dropped <b>.png')")
        hand.settle()
        assert hand.picture()["width"] == 900
        before = hand.picture()["id"]
        corner = np.zeros((700, 900), bool)
        corner[:50, :70] = True
        annotated = AnnotatedPicture(path.name, corner.shape, (NamedMask("read", corner),))
        (tmp_path / "mine.json").write_bytes(dict(coco.write([annotated]))[coco.PATH])
        hand.press("Delete")
        page.set_input_files("#file", [tmp_path / "mine.json"])
        page.wait_for_function("() => document.querySelector('#toast').textContent.includes('Read 1 objects')")
        hand.settle()
        [item] = objects_of(hand)
        assert item["name"] == "read"
        assert np.array_equal(masks.decode_rle(item["rle"]), corner)
        assert page.locator('#known-names option[value="read"]').count() == 1
        for _ in range(3):
            page.mouse.wheel(0, -400)
        page.keyboard.press("f")
    with open_page_expecting_refusal(chromium) as page:
        hand = Hand(page, f"{address}/#{before}")
        hand.open()
        page.set_input_files("#file", [tmp_path / "page.jpg"])
        page.wait_for_function("() => document.querySelector('#toast').textContent.includes('expected an image')")


def open_page_expecting_refusal(chromium):
    """A page on which the browser itself may complain of the server's 422."""
    return open_page(chromium, tolerated="422")
