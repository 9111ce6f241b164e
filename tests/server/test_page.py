"""A whole job on the page, in a real browser: open, look at the automatic mask, correct it, name it, reload, export what the server has."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright, which is in the extra 'dev'")

from browser import Hand, launched, open_page
from fretsaw import masks
from fretsaw.images import encode_image, read_mask
from fretsaw.interchange import coco
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from serving import make_folder, photo
from tools import need

if TYPE_CHECKING:
    from playwright.sync_api import Page

SERVING = Path(__file__).resolve().parents[1] / "serving.py"


@pytest.fixture(scope="module")
def chromium():
    with launched(need("chromium")) as browser:
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


@contextmanager
def at_work(chromium, address: str, picture: str) -> Iterator[tuple[Page, Hand]]:
    """A page of its own with a picture of the folder chosen, and the hand that works on it."""
    with open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        hand.choose_picture(picture)
        yield page, hand


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
    with at_work(chromium, address, "1.png") as (page, hand):
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


GREEN, RED = (18, 161, 80), (229, 56, 79)


def shows(hand: Hand, color: tuple[int, int, int], x: float, y: float) -> bool:
    return np.abs(np.subtract(hand.color(x, y)[:3], color)).max() <= 2


def test_scribbles_are_drawn_shown_and_taken_back_whole(chromium, address):
    with at_work(chromium, address, "deep/2.png") as (page, hand):
        hand.press("n")
        hand.press("5")
        assert page.get_attribute("#tool-scribble", "aria-pressed") == "true"
        hand.hold(30, 45, 90, 45)
        assert shows(hand, GREEN, 70, 45)
        assert objects_of(hand)[-1]["undoable"] == 0
        page.mouse.up()
        hand.settle()
        hand.drag(10, 10, 110, 10, positive=False)
        item = objects_of(hand)[-1]
        assert (item["undoable"], item["clicks"]) == (2, [])
        assert [line["positive"] for line in item["scribbles"]] == [True, False]
        for line, ends in zip(item["scribbles"], ([(30, 45), (90, 45)], [(10, 10), (110, 10)]), strict=True):
            assert np.allclose([line["points"][0], line["points"][-1]], ends, atol=0.6)
            assert len(line["points"]) > 4
        hand.press("z")
        [line] = objects_of(hand)[-1]["scribbles"]
        assert line == item["scribbles"][0]
        assert not shows(hand, RED, 60, 10)
        hand.press("Shift+Z")
        assert objects_of(hand)[-1]["rle"] == item["rle"]
        page.reload()
        hand.settle()
        assert objects_of(hand)[-1]["scribbles"] == item["scribbles"]
        assert shows(hand, GREEN, 70, 45)
        assert shows(hand, RED, 60, 10)
        hand.press("h")
        assert not shows(hand, RED, 60, 10)
        hand.press("h")


def test_a_scribble_follows_the_hand_with_few_points_and_stays_on_the_picture(chromium, address):
    with at_work(chromium, address, "deep/2.png") as (page, hand):
        hand.press("n")
        hand.press("5")
        # Let go by Escape: nothing is sent, and nothing stays.
        hand.hold(20, 70, 80, 70)
        assert shows(hand, GREEN, 60, 70)
        page.keyboard.press("Escape")
        page.mouse.up()
        hand.settle()
        assert not shows(hand, GREEN, 60, 70)
        assert objects_of(hand)[-1]["undoable"] == 0
        # A slow hand makes a move for every pixel of the screen, and leaves the picture in the end.
        page.mouse.move(*hand.at(60, 20))
        page.mouse.down()
        page.mouse.move(*hand.at(60, -2), steps=150)
        page.mouse.up()
        hand.settle()
        [line] = objects_of(hand)[-1]["scribbles"]
        points = np.array(line["points"])
        apart = np.hypot(*np.diff(points, axis=0).T) * (hand.at(1, 0)[0] - hand.at(0, 0)[0])
        assert 2 - 0.1 <= apart.min() <= apart.max() < 8
        assert -0.5 <= points[:, 1].min() < 0.5
        # X turns the left button round and keeps the tool; Alt does it for one line.
        page.keyboard.press("x")
        hand.drag(10, 80, 50, 80)
        page.keyboard.press("x")
        page.keyboard.down("Alt")
        hand.drag(10, 85, 50, 85)
        page.keyboard.up("Alt")
        # The keyboard alone: Enter begins and ends, Backspace begins a line over the background.
        page.mouse.move(*hand.at(60, 30))
        for begin in ("Enter", "Backspace"):
            for key in ("Shift+ArrowRight", begin, "Shift+ArrowDown", "Shift+ArrowDown", "Enter"):
                page.keyboard.press(key)
            hand.settle()
        lines = objects_of(hand)[-1]["scribbles"]
        assert [line["positive"] for line in lines] == [True, False, False, True, False]
        assert [len(line["points"]) for line in lines[-2:]] == [3, 3]
        assert objects_of(hand)[-1]["undoable"] == 5


def test_a_finger_draws_a_scribble(chromium, address):
    with at_work(chromium, address, "deep/2.png") as (page, hand):
        hand.press("n")
        hand.press("5")
        touch = page.context.new_cdp_session(page)
        for kind, places in (("touchStart", [(30, 20)]), ("touchMove", [(50, 30)]), ("touchMove", [(70, 20)]), ("touchEnd", [])):
            points = [dict(zip("xy", hand.at(*place), strict=True)) for place in places]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_selector("#undo:not([disabled])")
        hand.settle()
        [line] = objects_of(hand)[-1]["scribbles"]
        assert np.allclose(line["points"], [(30, 20), (50, 30), (70, 20)], atol=0.6)


def test_undo_brings_back_what_was_thrown_away(chromium, address):
    with at_work(chromium, address, "deep/2.png") as (page, hand):
        for x in (40, 80):
            hand.press("n")
            hand.click(x, 45)
        kept, gone = before = objects_of(hand)[-2:]
        hand.press("Delete")
        assert objects_of(hand)[-1] == kept
        hand.press("z")
        assert objects_of(hand)[-2:] == before
        assert page.get_attribute("#objects li.active", "data-id") == str(gone["id"])
        # Once it is back, undo and redo are its own again; what was done last is made again first.
        hand.press("z")
        assert objects_of(hand)[-1]["undoable"] == 0
        hand.press("Shift+Z")
        assert objects_of(hand)[-1]["rle"] == gone["rle"]
        # Steps that are newer than the throwing away are taken back before it.
        before = objects_of(hand)[-2:]
        hand.press("Delete")
        hand.click(20, 20)
        assert objects_of(hand)[-1]["undoable"] == 2
        hand.press("z")
        assert (objects_of(hand)[-1]["id"], objects_of(hand)[-1]["undoable"]) == (kept["id"], 1)
        hand.press("z")
        assert [item["rle"] for item in objects_of(hand)[-2:]] == [item["rle"] for item in before]
        hand.press("Shift+Z")
        assert objects_of(hand)[-1]["id"] == kept["id"]
        hand.press("z")
        assert objects_of(hand)[-1] == before[1]
        # Two come back in turn, and nobody need wait for the server in between.
        hand.press("Delete")
        for key in ("Delete", "z", "z"):
            page.keyboard.press(key)
        hand.settle()
        assert [(item["id"], item["undoable"]) for item in objects_of(hand)[-2:]] == [(kept["id"], 1), (gone["id"], 1)]
        # An object that is not in hand comes back to where it was, and the one in hand stays in hand.
        page.click(f'[data-id="{kept["id"]}"] [data-part="remove"]')
        hand.settle()
        active = page.get_attribute("#objects li.active", "data-id")
        hand.press("z")
        assert objects_of(hand)[-2]["id"] == kept["id"]
        assert page.get_attribute("#objects li.active", "data-id") == active


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
        tinted = hand.color(float(x), float(y))
        page.keyboard.press("p")
        page.wait_for_selector("#canvas[data-preview=false]")
        plain = hand.color(float(x), float(y))
        assert np.abs(np.subtract(tinted, plain)).max() > 10
        assert hand.picture() == before
        page.keyboard.press("p")


def test_parts_of_an_automatic_mask_become_objects(chromium, address, tmp_path):
    with at_work(chromium, address, "1.png") as (page, hand):
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
        page.wait_for_function("() => document.querySelector('#toast').textContent.includes('Read 1 object')")
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


def test_a_picture_with_damaged_work_says_so_and_bars_no_other(chromium, address):
    with open_page(chromium, tolerated="409") as page:
        hand = Hand(page, address)
        hand.open()
        _, damaged, after = page.request.get(f"{address}/api/images").json()["images"][:3]
        refusal = {"reason": "the saved work on this picture is damaged (its log is cut off); it can be repaired", "kind": "DamagedError"}
        page.route(f"**/api/images/{damaged['id']}", lambda route: route.fulfill(status=409, json=refusal))
        page.click(f'[data-id="{damaged["id"]}"]')
        page.wait_for_selector(f'[data-id="{damaged["id"]}"] .damaged')
        sentence = "The saved work on this picture is damaged (its log is cut off); it can be repaired. The other pictures are not affected."
        assert page.text_content("#toast") == sentence
        assert page.get_attribute(f'[data-id="{damaged["id"]}"]', "title") == f"{damaged['name']}: {refusal['reason']}"
        hand.press("PageDown")
        page.wait_for_function("id => location.hash === '#' + id", arg=after["id"])


def test_keys_work_after_a_slider_was_moved_and_say_what_buttons_do(chromium, address):
    with at_work(chromium, address, "deep/2.png") as (page, hand):
        hand.press("n")
        hand.click(60, 45)
        before = objects_of(hand)[-1]["undoable"]
        hand.press("3")
        page.focus("#brush-size")
        page.keyboard.press("ArrowRight")
        hand.press("z")
        assert objects_of(hand)[-1]["undoable"] == before - 1
        page.keyboard.press("Shift+Z")
        hand.settle()
        page.focus("#auto-open")
        ticked = page.is_checked("#auto-open")
        page.keyboard.press(" ")
        assert page.is_checked("#auto-open") != ticked
        named = page.eval_on_selector_all("button[data-action]", "items => items.filter((item) => !item.title).map((item) => item.outerHTML)")
        assert named == []
        assert page.get_attribute("#redo", "title") == "Redo (Shift+Z)"
        assert page.get_attribute("#undo", "aria-keyshortcuts") == "Z"


def open_page_expecting_refusal(chromium):
    """A page on which the browser itself may complain of the server's 422."""
    return open_page(chromium, tolerated="422")


@pytest.mark.parametrize("width", [360, 540, 700])
def test_a_narrow_window_shows_every_button(chromium, address, width):
    with open_page(chromium, width=width, height=740) as page:
        page.goto(address)
        page.wait_for_selector("#stage[data-state=open][data-busy=false]")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in page.locator("header button:visible").all():
            box = button.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width, button.get_attribute("aria-label")
        assert page.locator("#export").is_visible()
        stage = page.locator("#canvas").bounding_box()
        assert stage is not None
        assert stage["height"] > 250
