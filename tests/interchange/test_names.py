"""One rule for a picture's name, however a file of annotations gives it, and for the files that are written about it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fretsaw.errors import DataError
from fretsaw.interchange.names import NameIndex, Stems, key, picture_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a.jpg", "a.jpg"),
        ("img/a.jpg", "img/a.jpg"),
        ("./img//a.jpg", "img/a.jpg"),
        ("img/../a.jpg", "a.jpg"),
        ("../img/a.jpg", "a.jpg"),
        ("..\\img\\a.jpg", "a.jpg"),
        ("img\\a.jpg", "img/a.jpg"),
        ("C:\\Users\\me\\a.jpg", "a.jpg"),
        ("C:a.jpg", "a.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("/home/me/a.jpg", "a.jpg"),
        ("~/a.jpg", "a.jpg"),
        ("file:///home/me/a.jpg", "a.jpg"),
        ("https://host/bucket/a%20b.jpg?token=x#y", "a b.jpg"),
        ("s3://bucket/key/a.jpg", "a.jpg"),
        ("img/a.jpg?v=3", "img/a.jpg"),
        ("/data/upload/1/abcd1234-a.jpg", "abcd1234-a.jpg"),
        ("http://host:8080/data/upload/1/abcd1234-%C3%A4.jpg", "abcd1234-ä.jpg"),
        ("/data/local-files/?d=img/a.jpg", "img/a.jpg"),
        ("http://host/data/local-files/?d=img%2Fa.jpg", "img/a.jpg"),
        ("100%25.jpg", "100%25.jpg"),
        ("what?.jpg", "what?.jpg"),
    ],
)
def test_whatever_names_a_picture_becomes_a_path_inside_a_folder(given, name):
    assert picture_name(given) == name


@pytest.mark.parametrize(
    "given", ["", "/", "..", "img/..", "https://host/", "http://[x/a.jpg", "data:image/png;base64,xx", "https://host/%0a", None, 3, ["a.jpg"]]
)
def test_what_names_no_file_is_refused(given):
    with pytest.raises(DataError, match=r"^image 7: expected a picture's file name"):
        picture_name(given, "image 7")


@given(st.text(st.sampled_from("aä.:/\\?%2fFdC~ =&-#\u0308"), min_size=1, max_size=30) | st.text(min_size=1, max_size=20))
def test_a_name_stays_as_it_is_and_inside_a_folder(text):
    for value in (text, f"https://h/{text}", f"/data/local-files/?d={text}", f"C:\\{text}"):
        try:
            name = picture_name(value)
        except DataError:
            continue
        assert picture_name(name) == name
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert "\\" not in name


def test_names_beside_a_file_are_relative_to_it():
    assert picture_name("..\\img\\a.jpg", folder="labels") == "img/a.jpg"
    assert picture_name("a.jpg", folder="labels/train") == "labels/train/a.jpg"
    assert picture_name("/abs/a.jpg", folder="labels") == "a.jpg"


def test_a_picture_is_found_by_what_its_name_means():
    index = NameIndex(["a/x.jpg", "b/x.jpg", "c/Über.JPG", "d/y.png", "abcd1234-z.png", "case/N.png", "case/n.png"])
    assert index.find("a/x.jpg") == "a/x.jpg"
    assert index.find("x.jpg") is None  # either
    assert index.find(picture_name("s3://bucket/b/x.jpg")) == "b/x.jpg"  # the name alone would be either
    assert index.find("elsewhere/a/x.jpg") == "a/x.jpg"
    assert index.find(unicodedata.normalize("NFD", "c/Über.JPG")) == "c/Über.JPG"
    assert index.find("über.jpg") == "c/Über.JPG"
    assert index.find("y") == "d/y.png"  # VOC's <filename>y</filename>
    assert index.find(picture_name("/data/upload/3/0123abcd-y.png")) == "d/y.png"
    assert index.find("abcd1234-z.png") == "abcd1234-z.png"
    assert (index.find("case/N.png"), index.find("case/n.png")) == ("case/N.png", "case/n.png")
    assert index.find("y.jpg") is None
    assert index.find("") is None


def test_no_two_pictures_share_a_place_on_any_system():
    stems = Stems()
    names = [
        "a.jpg",
        "a.png",
        "A.jpg",
        "a.jpg",
        "a.jpg",
        "u\u0308.jpg",
        "\u00fc.jpg",
        "con.jpg",
        "x:y?.png",
        ".hidden/b.jpg",
        "q" * 300 + ".jpg",
        "q" * 299 + "p.jpg",
        "dot..jpg",
    ]
    taken = [stems.take(name) for name in names]
    assert taken[:5] == ["a", "a.png", "A.jpg", "a.jpg-2", "a.jpg-3"]
    assert len({key(stem) for stem in taken}) == len(taken)
    for stem in taken:
        assert all(part == part.strip() and not part.startswith(".") and len(part.encode()) < 200 for part in stem.split("/"))
        assert not set('<>:"|?*\\') & set(stem)
