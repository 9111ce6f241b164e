"""Reading: every format, every kind of pixel, every way to fail. Writing: what comes back, and that nothing is left half done."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fretsaw import images
from fretsaw.errors import ImageError, OutputError, ShapeError
from hostile import HEIGHT, READABLE, REFUSED, WIDTH, encoded, exif_photo, make_hostile, photo, png

LOSSLESS = {"PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "BMP": {}, "PPM": {}}


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 500
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[list[Path], dict[Path, tuple[int, int]]]:
    return make_hostile(tmp_path_factory.mktemp("hostile"))


class TestHostileFiles:
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_broken_files_are_refused_with_one_line_that_names_them(self, folder):
        refused, _ = folder
        assert len(refused) >= 25
        for path in refused:
            with pytest.raises(ImageError) as error:
                images.read_image(path)
            message = one_line(error)
            assert message.startswith(f"{path}: expected ")
            assert "got" in message
            with pytest.raises(ImageError, match="expected"):
                images.read_mask(path)

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_unusual_files_are_read(self, folder):
        _, readable = folder
        for path, size in readable.items():
            image = images.read_image(path)
            assert image.shape == (*size, 3), path.name
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert image.flags.writeable
            assert images.read_mask(path).shape == size, path.name

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    @pytest.mark.parametrize("name", REFUSED)
    def test_the_same_content_is_refused_as_bytes_and_as_a_file_object(self, name):
        content = REFUSED[name]()
        for source in (content, io.BytesIO(content), bytearray(content), memoryview(content)):
            with pytest.raises(ImageError, match=r"expected .*got"):
                images.read_image(source)

    @pytest.mark.parametrize("name", ["bomb.png", "bomb.bmp"])
    def test_bombs_are_refused_before_a_pixel_is_decoded(self, name):
        with pytest.raises(ImageError) as error:
            images.read_image(REFUSED[name]())
        assert str(images.PIXEL_LIMIT) in one_line(error)
        assert "60000 x 60000" in str(error.value)
        assert images.PIXEL_LIMIT > 8192 * 8192

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("PNG", {}),
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("WEBP", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("BMP", {}),
            ("GIF", {}),
            ("PPM", {}),
        ],
    )
    def test_a_file_cut_anywhere_gives_the_same_picture_or_an_error_and_never_another_picture(self, kind, options):
        content = encoded(photo(16, 24), kind, **options)
        whole = images.read_image(content)
        lengths = [*range(0, len(content), 7), *range(len(content) - 40, len(content))]
        refused = 0
        for length in lengths:
            try:
                np.testing.assert_array_equal(images.read_image(content[:length]), whole)
            except ImageError:
                refused += 1
        assert refused > len(lengths) / 2

    def test_a_name_that_breaks_lines_or_encodings_stays_on_one_line(self, tmp_path):
        for name in ("two\nlines.png", os.fsdecode(b"\xff\xfe.png")):
            with pytest.raises(ImageError) as error:
                images.read_image(tmp_path / name)
            one_line(error)
            str(error.value).encode()

    def test_a_file_without_permission_is_named(self, tmp_path):
        if os.geteuid() == 0:
            pytest.skip("root may read every file")
        path = tmp_path / "forbidden.png"
        path.write_bytes(encoded(photo(), "PNG"))
        path.chmod(0)
        with pytest.raises(ImageError, match=r"forbidden\.png: expected a readable image file, got: Permission denied"):
            images.read_image(path)

    def test_a_pipe_is_refused_rather_than_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ImageError, match="no regular file"):
            images.read_image(tmp_path / "pipe.png")

    def test_the_folder_can_be_written_by_a_command(self, tmp_path):
        script = Path(__file__).with_name("hostile.py")
        run = subprocess.run([sys.executable, script, tmp_path / "out"], capture_output=True, text=True, check=True)
        assert "files to refuse" in run.stdout
        assert len(list((tmp_path / "out").iterdir())) > 50


class TestPixels:
    @pytest.mark.parametrize("kind", LOSSLESS)
    def test_lossless_formats_give_the_very_pixels_from_every_source(self, tmp_path, kind):
        content = encoded(photo(), kind, **LOSSLESS[kind])
        path = tmp_path / "picture.bin"
        path.write_bytes(content)
        with path.open("rb") as file:
            for source in (path, str(path), content, io.BytesIO(content), file, Image.open(io.BytesIO(content)), Image.open(path), photo()):
                np.testing.assert_array_equal(images.read_image(source), photo())

    @pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", 12), ("GIF", 40)])
    def test_lossy_formats_give_nearly_those(self, kind, tolerance):
        picture = images.read_image(encoded(photo(), kind, **({"quality": 95} if kind == "JPEG" else {})))
        assert np.abs(picture.astype(int) - photo()).mean() < tolerance

    def test_a_gif_gives_its_first_frame(self):
        first, second = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 200, 0))
        content = encoded(first, "GIF", save_all=True, append_images=[second])
        assert images.read_image(content)[0, 0].tolist() == [200, 0, 0]

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, kind, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(photo(), kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}))
        upright = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2)}
        upright |= {6: lambda a: a.transpose(1, 0, 2)[:, ::-1], 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: a.transpose(1, 0, 2)[::-1]}
        expected = upright[orientation](photo())
        for source in (content, Image.open(io.BytesIO(content))):
            image = images.read_image(source)
            assert image.shape == expected.shape
            assert np.abs(image.astype(int) - expected).max() <= (8 if kind == "JPEG" else 0)

    def test_a_photo_turned_by_its_reader_is_not_turned_again(self):
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(exif_photo(6))))
        assert images.read_image(turned).shape == (WIDTH, HEIGHT, 3)

    def test_transparency_is_composited_on_white(self):
        rgba = np.zeros((2, 2, 4), np.uint8)
        rgba[0, 0], rgba[0, 1], rgba[1, 0], rgba[1, 1] = (10, 20, 30, 255), (10, 20, 30, 0), (0, 100, 200, 128), (0, 0, 0, 51)
        expected = [[[10, 20, 30], [255, 255, 255]], [[127, 177, 227], [204, 204, 204]]]
        for source in (rgba, Image.fromarray(rgba), encoded(rgba, "PNG"), encoded(rgba, "TIFF")):
            np.testing.assert_array_equal(images.read_image(source), expected)

    def test_transparent_grey_palettes_and_colour_keys_too(self):
        grey = Image.fromarray(np.dstack([np.full((2, 2), 100), [[255, 0], [0, 255]]]).astype(np.uint8), "LA")
        np.testing.assert_array_equal(images.read_image(encoded(grey, "PNG"))[..., 1], [[100, 255], [255, 100]])
        indexed = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8)).convert("P")
        indexed.putpalette([9, 9, 9, 50, 60, 70, 1, 2, 3])
        np.testing.assert_array_equal(images.read_image(encoded(indexed, "PNG", transparency=1))[..., 2], [[9, 255], [255, 3]])
        np.testing.assert_array_equal(images.read_image(encoded(indexed, "PNG"))[..., 2], [[9, 70], [70, 3]])
        keyed = encoded(np.array([[[1, 2, 3], [4, 5, 6]]] * 2, np.uint8), "PNG", transparency=(1, 2, 3))
        np.testing.assert_array_equal(images.read_image(keyed)[..., 0], [[255, 4]] * 2)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_16_bit_grey_keeps_its_high_byte(self, kind):
        values = np.array([[0, 255, 256], [511, 32768, 65535]], np.uint16)
        expected = [[0, 0, 1], [1, 128, 255]]
        for source in (encoded(values, kind), values, values[..., None]):
            np.testing.assert_array_equal(images.read_image(source), np.repeat(np.array(expected)[..., None], 3, axis=2))
        np.testing.assert_array_equal(images.read_mask(encoded(values, kind)), values)

    def test_16_bit_colour_keeps_its_high_byte(self):
        pixels = np.array([[[0, 256, 65535], [511, 512, 1]]] * 2, np.uint16)
        content = png(2, 2, depth=16, data=b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels))
        for source in (content, pixels):
            np.testing.assert_array_equal(images.read_image(source), [[[0, 1, 255], [1, 2, 0]]] * 2)

    def test_bilevel(self):
        bits = np.array([[True, False], [False, True]])
        expected = np.repeat(bits[..., None] * 255, 3, axis=2)
        for source in (bits, Image.fromarray(bits), encoded(Image.fromarray(bits), "PNG"), encoded(Image.fromarray(bits), "TIFF", compression="group4")):
            np.testing.assert_array_equal(images.read_image(source), expected)

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_cmyk(self, kind):
        inks = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (255, 0, 0, 0)])
        picture = images.read_image(encoded(inks, kind))
        assert np.abs(picture.astype(int) - [0, 255, 255]).max() <= 2, "full cyan"

    @pytest.mark.parametrize("mode", ["L", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "P", "PA", "1", "I;16"])
    def test_every_mode_of_pil_gives_rgb(self, mode):
        first = "RGBA" if mode in ("RGBa",) else "LA" if mode == "La" else "RGB"
        image = Image.fromarray(photo()).convert(first)
        image = Image.fromarray(photo()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        assert image.mode == mode
        result = images.read_image(image)
        assert result.shape == (HEIGHT, WIDTH, 3)
        if mode in ("RGBA", "RGBa", "RGBX", "CMYK"):
            np.testing.assert_array_equal(result, photo())
        if mode in ("L", "LA", "La"):
            np.testing.assert_array_equal(result[..., 0], np.asarray(Image.fromarray(photo()).convert("L")))

    def test_floats_without_a_range_are_refused(self):
        for read in (images.read_image, images.read_mask, images.read_labels):
            with pytest.raises(ImageError, match=r"PIL image: expected integers of 8 or 16 bit, got floats"):
                read(Image.new("F", (4, 4)))

    def test_arrays_of_one_channel_and_any_memory_layout(self):
        grey = photo()[..., 0]
        for source in (grey, grey[..., None], np.asfortranarray(grey), np.repeat(grey, 2, axis=1)[:, ::2]):
            np.testing.assert_array_equal(images.read_image(source), np.repeat(grey[..., None], 3, axis=2))
        np.testing.assert_array_equal(images.read_image(photo()[::-1, ::-2]), photo()[::-1, ::-2])

    def test_the_result_is_a_copy(self):
        source = photo()
        result = images.read_image(source)
        result[:] = 0
        np.testing.assert_array_equal(source, photo())

    @pytest.mark.parametrize(
        ("source", "came"),
        [
            (np.zeros((4, 4, 3)), "float64; floats have no fixed range"),
            (np.full((4, 4), np.nan, np.float32), "float32"),
            (np.zeros((4, 4), np.int64), "int64"),
            (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
            (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
            (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
            (np.zeros((0, 4, 3), np.uint8), "4 x 0"),
            (np.zeros((1, 9, 3), np.uint8), "9 x 1"),
            (np.zeros(4, np.uint8), r"\(4,\)"),
            (Image.new("RGB", (1, 9)), "1 x 9"),
            (Image.new("RGB", (0, 0)), "0 x 0"),
            (io.StringIO("text"), "reads str"),
            (None, "NoneType"),
            (17, "int"),
            ("", "''"),
            ("no\x00such.png", r"got"),
        ],
    )
    def test_what_is_no_image_is_named(self, source, came):
        with pytest.raises(ImageError, match=came) as error:
            images.read_image(source)
        assert "expected" in one_line(error)

    def test_the_limit_is_an_argument(self):
        content = encoded(photo(), "PNG")
        assert images.read_image(content, pixel_limit=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
        for source in (content, photo(), Image.fromarray(photo())):
            with pytest.raises(ImageError, match=rf"at most {HEIGHT * WIDTH - 1} pixels .*got {WIDTH} x {HEIGHT} = {HEIGHT * WIDTH}"):
                images.read_image(source, pixel_limit=HEIGHT * WIDTH - 1)
        with pytest.raises(ImageError, match="at most 5 pixels"):
            images.read_mask(content, pixel_limit=5)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
    def test_a_higher_limit_raises_pillows_global_for_as_long_as_it_lasts(self, monkeypatch, kind):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert images.read_image(encoded(photo(), kind), pixel_limit=images.PIXEL_LIMIT + 1).shape == (HEIGHT, WIDTH, 3)
        with pytest.raises(ImageError):
            images.read_image(REFUSED["truncated.png"](), pixel_limit=images.PIXEL_LIMIT + 1)
        assert Image.MAX_IMAGE_PIXELS == 100

    @pytest.mark.parametrize("kind", ["png", "jpg"])
    def test_real_photos_equal_pillows(self, shared, kind):
        folder = {"jpg": shared / "data" / "berkeley" / "images", "png": shared / "data" / "berkeley" / "masks"}[kind]
        for path in sorted(folder.iterdir())[:5]:
            np.testing.assert_array_equal(images.read_image(path), np.asarray(Image.open(path).convert("RGB")))


class TestSizes:
    """A picture's size is told from its header, as `read_image` gives it."""

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_of_every_file_that_is_read(self, folder):
        for path, size in folder[1].items():
            assert images.picture_size(path) == size, path.name
            assert images.picture_size(path.read_bytes()) == size, path.name
            with Image.open(path) as image:
                assert images.picture_size(image) == size, path.name
                np.testing.assert_array_equal(images.read_image(image), images.read_image(path))
            np.testing.assert_array_equal(images.read_mask(path, size=size), images.read_mask(path))

    def test_what_is_no_image_is_refused(self, folder):
        damaged_behind_the_header = 0
        for path in folder[0]:
            with contextlib.suppress(ImageError):
                damaged_behind_the_header += min(images.picture_size(path)) >= 2
        assert damaged_behind_the_header < len(folder[0]) / 2

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99])
    def test_as_its_orientation_says_and_no_pixel_is_decoded(self, kind, orientation, monkeypatch):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(photo(), kind, exif=exif)
        expected = images.read_image(content).shape[:2]
        assert expected == ((WIDTH, HEIGHT) if orientation in (5, 6, 7, 8) else (HEIGHT, WIDTH))
        np.testing.assert_array_equal(images.read_mask(content, size=expected), images.read_mask(content))
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
        assert images.picture_size(content) == expected

    def test_of_a_png_that_says_how_it_lies_behind_its_pixels(self, monkeypatch):
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encoded(photo(), "PNG", exif=exif)
        start = content.index(b"eXIf") - 4
        chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
        end = content.index(b"IEND") - 4
        moved = content[:end].replace(chunk, b"") + chunk + content[end:]
        assert images.read_image(moved).shape == (WIDTH, HEIGHT, 3)
        assert images.read_mask(moved, size=(WIDTH, HEIGHT)).shape == (WIDTH, HEIGHT)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
        assert images.picture_size(moved) == (WIDTH, HEIGHT)

    def test_a_mask_of_another_size_is_refused_before_it_is_decoded(self):
        content = png(20_000, 8000, color=0, data=bytes(100))
        with pytest.raises(ImageError, match=r"expected an image of 9 x 8 pixels .*, got 20000 x 8000"):
            images.read_mask(content, size=(8, 9))
        with pytest.raises(ImageError, match="expected an image of 9 x 8 pixels"):
            images.read_labels(content, size=(8, 9))
        assert images.read_mask(exif_photo(6), size=(WIDTH, HEIGHT)).shape == (WIDTH, HEIGHT)

    def test_a_mask_of_a_part_may_be_one_pixel_thin(self):
        content = encoded(np.full((1, 5), 255, np.uint8), "PNG")
        assert images.read_mask(content, smallest=1).shape == (1, 5)
        with pytest.raises(ImageError, match="at least 2 x 2"):
            images.read_mask(content)


class TestMemory:
    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which tells a process's peak")
    @pytest.mark.parametrize("name", ["RGB", "RGBA", "LA", "P", "turned"])
    def test_reading_takes_a_few_bytes_a_pixel(self, name, tmp_path):
        """In a process of its own, whose peak the system tells. Pillow keeps 4 bytes a pixel and the result has 3; it used to be 14 to 25 together."""
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "a.png"
        Image.new("RGB" if name == "turned" else name, (4096, 4096), 3).save(path, **({"exif": exif} if name == "turned" else {}))
        assert path.stat().st_size < 2**18
        # The kernel counts a parent's peak as its child's in getrusage; /proc does not.
        code = (
            "import sys\nfrom fretsaw.images import read_image\n"
            "def peak(): return 1024 * int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
            "before = peak()\nread_image(sys.argv[1])\nprint(peak() - before)"
        )
        taken = int(subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout)
        assert taken < 9.5 * 4096 * 4096

    @pytest.mark.parametrize("strip", [1, 60, 2**18])
    def test_strips_change_nothing(self, folder, strip, monkeypatch):
        expected = {path: (images.read_image(path), images.read_mask(path)) for path in folder[1]}
        monkeypatch.setattr(images, "_STRIP", strip)
        for path, (image, mask) in expected.items():
            np.testing.assert_array_equal(images.read_image(path), image)
            np.testing.assert_array_equal(images.read_mask(path), mask)


class TestMasksAndLabels:
    @pytest.mark.filterwarnings("error")
    def test_transparency_counts_for_nothing_and_warns_nobody(self):
        content = encoded(Image.fromarray(photo()).convert("P"), "PNG", transparency=bytes([0, 128, 255]))
        plain = encoded(Image.fromarray(photo()).convert("P"), "PNG")
        np.testing.assert_array_equal(images.read_mask(content), images.read_mask(plain))

    def test_grey_values_stay(self, tmp_path):
        values = np.array([[0, 1, 128], [200, 254, 255]], np.uint8)
        (tmp_path / "m.png").write_bytes(encoded(values, "PNG"))
        np.testing.assert_array_equal(images.read_mask(tmp_path / "m.png"), values)
        np.testing.assert_array_equal(images.read_labels(tmp_path / "m.png"), values)

    def test_colours_give_their_maximum_and_alpha_counts_for_nothing(self):
        pixels = np.array([[[0, 0, 0, 255], [3, 0, 9, 0]], [[255, 1, 2, 7], [5, 6, 4, 255]]], np.uint8)
        for source in (encoded(pixels, "PNG"), encoded(pixels[..., :3], "BMP")):
            np.testing.assert_array_equal(images.read_mask(source), [[0, 9], [255, 6]])
        with pytest.raises(ImageError, match="expected class ids in a palette or grey image, got colours"):
            images.read_labels(encoded(pixels, "PNG"))

    def test_palettes_give_ids_as_labels_and_colours_as_masks(self):
        ids = np.array([[0, 1], [2, 15]], np.uint8)
        picture = Image.fromarray(ids).convert("P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 64, 0, *[0] * 36, 1, 2, 255])
        for kind in ("PNG", "BMP", "TIFF"):
            content = encoded(picture, kind)
            np.testing.assert_array_equal(images.read_labels(content), ids)
            np.testing.assert_array_equal(images.read_mask(content), [[0, 128], [64, 255]])
        with pytest.raises(ImageError, match="palette image without its palette"):
            images.read_mask(REFUSED["no_palette.png"]())
        assert images.read_labels(REFUSED["no_palette.png"]()).shape == (8, 8), "ids need no palette"

    def test_bits_are_0_and_255_as_masks_0_and_1_as_labels(self):
        content = encoded(Image.fromarray(np.array([[True, False], [False, True]])), "PNG")
        np.testing.assert_array_equal(images.read_mask(content), [[255, 0], [0, 255]])
        np.testing.assert_array_equal(images.read_labels(content), [[1, 0], [0, 1]])

    def test_ids_above_255(self):
        values = np.array([[0, 300], [1000, 65535]], np.uint16)
        labels = images.read_labels(encoded(values, "PNG"))
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, values)


class TestWriting:
    @pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF", ".bmp"])
    @pytest.mark.parametrize("shape", [(9, 12), (2, 2)])
    def test_masks_come_back_exactly(self, tmp_path, rng, suffix, shape):
        mask = rng.random(shape) > 0.5
        path = images.write_mask(tmp_path / "deep" / "folder" / f"mask{suffix}", mask[:, ::-1])
        values = images.read_mask(path)
        np.testing.assert_array_equal(values, np.where(mask[:, ::-1], 255, 0))
        if suffix == ".png":
            assert (Image.open(path).mode, values.dtype) == ("L", np.uint8)

    @pytest.mark.parametrize(("suffix", "channels"), [(".png", 3), (".png", 4), (".webp", 3), (".webp", 4), (".tif", 4), (".bmp", 3)])
    def test_colours_come_back_exactly(self, tmp_path, suffix, channels):
        picture = np.dstack([photo(), photo()[..., 0]])[..., :channels]
        path = images.write_image(tmp_path / f"a{suffix}", picture)
        back = np.asarray(Image.open(path))
        visible = picture[..., -1:] > 0 if channels == 4 else True
        np.testing.assert_array_equal(back * visible, picture * visible)

    def test_jpeg_is_near(self, tmp_path):
        path = images.write_image(tmp_path / "a.JPG", photo())
        assert Image.open(path).format == "JPEG"
        assert np.abs(images.read_image(path).astype(int) - photo()).mean() < 3

    def test_pil_images_are_written_too(self, tmp_path):
        np.testing.assert_array_equal(images.read_image(images.write_image(tmp_path / "a.png", Image.fromarray(photo()))), photo())

    @pytest.mark.parametrize("suffix", ["", ".txt", ".jpgg", ".gif"])
    def test_unknown_suffixes_are_refused(self, tmp_path, suffix):
        with pytest.raises(OutputError, match=r"expected an image suffix \(\.png, "):
            images.write_image(tmp_path / f"a{suffix}", photo())
        assert list(tmp_path.iterdir()) == []

    def test_a_format_that_cannot_hold_the_image_is_refused(self, tmp_path):
        rgba = np.dstack([photo(), photo()[..., 0]])
        for suffix in (".jpg", ".bmp"):
            with pytest.raises(OutputError, match="expected a format with transparency"):
                images.write_image(tmp_path / f"a{suffix}", rgba)
        with pytest.raises(OutputError, match="expected a lossless format for a mask"):
            images.write_mask(tmp_path / "a.jpg", photo()[..., 0] > 9)
        with pytest.raises(OutputError, match=r"expected an image that \.webp can hold, got 20000 x 1"):
            images.write_image(tmp_path / "a.webp", np.zeros((1, 20000, 3), np.uint8))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((4, 4, 3), bool), [[0]], None])
    def test_arrays_that_are_no_image_are_refused(self, tmp_path, array):
        with pytest.raises(ShapeError, match=r"image: expected .*got"):
            images.write_image(tmp_path / "a.png", array)

    def test_places_that_cannot_be_written_are_named(self, tmp_path):
        (tmp_path / "file").write_text("x")
        (tmp_path / "taken.png").mkdir()
        for target in (tmp_path / "file" / "below.png", tmp_path / "taken.png"):
            with pytest.raises(OutputError, match=rf"{target.name}: expected a place that can be written, got: ") as error:
                images.write_image(target, photo())
            one_line(error)
        with pytest.raises(OutputError, match="expected a place"):
            images.write_bytes("", b"x")
        with pytest.raises(OutputError, match="expected a place"):
            images.write_bytes(tmp_path / "nul\x00.png", b"x")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"], "nothing is left behind"

    def test_what_stood_there_stays_until_the_new_file_is_complete(self, tmp_path, monkeypatch):
        target = images.write_bytes(tmp_path / "a.bin", b"old")
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError, match="No space left on device"):
            images.write_bytes(target, b"new")
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_file_is_replaced_and_takes_the_usual_permissions(self, tmp_path):
        old = os.umask(0o022)
        try:
            target = images.write_bytes(tmp_path / "a.bin", b"old")
            images.write_bytes(target, b"new")
        finally:
            os.umask(old)
        assert target.read_bytes() == b"new"
        assert target.stat().st_mode & 0o777 == 0o644


class TestPictures:
    MASK = np.pad(np.ones((20, 24), bool), 10)
    IMAGE = np.full((40, 44, 3), 100, np.uint8)

    def test_an_overlay_tints_inside_and_leaves_the_outside_alone(self):
        result = images.overlay(self.IMAGE, self.MASK, color=(200, 0, 50), alpha=0.5)
        assert result[20, 20].tolist() == [150, 50, 75]
        assert result[10, 20].tolist() == [200, 0, 50], "a line of full colour on the object's side"
        assert result[9, 20].tolist() == [255, 255, 255], "a white one outside"
        assert result[8, 20].tolist() == [100, 100, 100]
        assert (self.IMAGE == 100).all()

    def test_the_lines_grow_with_the_image(self):
        big = np.kron(self.MASK, np.ones((40, 40), bool)) > 0
        result = images.overlay(np.full((*big.shape, 3), 100, np.uint8), big)
        assert (result[395:400, 800] == 255).all(axis=1).sum() == 4

    def test_no_line_runs_along_the_images_border(self):
        whole = images.overlay(self.IMAGE, np.ones((40, 44), bool), alpha=0)
        np.testing.assert_array_equal(whole, self.IMAGE)
        half = images.overlay(self.IMAGE, np.arange(44)[None] < np.full((40, 1), 20), alpha=0)
        np.testing.assert_array_equal(half[:, :19], self.IMAGE[:, :19])
        assert (half[:, 20] == 255).all()

    @pytest.mark.parametrize("mask", [np.zeros((40, 44), bool), np.pad(np.ones((1, 1), bool), ((39, 0), (0, 43)))])
    def test_empty_masks_and_single_pixels(self, mask):
        changed = (images.overlay(self.IMAGE, mask) != self.IMAGE).any(axis=2).sum()
        assert changed == (3 if mask.any() else 0)

    def test_a_cutout_shows_the_object_and_forgets_the_rest(self):
        rgba = images.cutout(self.IMAGE, self.MASK)
        assert rgba.shape == (40, 44, 4)
        assert (rgba[self.MASK] == [100, 100, 100, 255]).all()
        assert (rgba[~self.MASK] == 0).all(), "colours that were cut away are not in the file"

    def test_probabilities_become_opacity(self):
        probs = np.linspace(0, 1, 40 * 44, dtype=np.float32).reshape(40, 44)
        np.testing.assert_array_equal(images.cutout(self.IMAGE, probs)[..., 3], np.floor(probs * 255 + 0.5))
        assert images.cutout(self.IMAGE, probs.astype(np.float64)).dtype == np.uint8

    @pytest.mark.parametrize("probs", [np.full((40, 44), 1.5), np.full((40, 44), -1.0), np.full((40, 44), np.nan)])
    def test_logits_are_not_probabilities(self, probs):
        with pytest.raises(ShapeError, match="mask_probs: expected values in"):
            images.cutout(self.IMAGE, probs)

    @pytest.mark.parametrize("function", [images.overlay, images.cutout])
    def test_arrays_must_fit(self, function):
        with pytest.raises(ShapeError, match="one size"):
            function(self.IMAGE, self.MASK[:, 1:])
        with pytest.raises(ShapeError, match="expected a numpy array"):
            function(self.IMAGE, self.MASK.astype(np.uint8))
        with pytest.raises(ShapeError, match=r"image: expected a numpy array \(H, W, 3\) of uint8"):
            function(self.IMAGE[..., 0], self.MASK)


class TestHash:
    def test_equal_arrays_have_equal_hashes_whatever_their_layout(self):
        assert images.image_hash(photo()) == images.image_hash(np.asfortranarray(photo())) == images.image_hash(photo()[::-1][::-1])
        assert len(images.image_hash(photo())) == 64

    def test_any_difference_shows(self):
        other = photo()
        other[0, 0, 0] ^= 1
        variants = [photo(), other, photo().reshape(WIDTH, HEIGHT, 3), photo().view(np.int8), photo()[..., ::-1]]
        assert len({images.image_hash(variant) for variant in variants}) == len(variants)


def test_every_readable_file_of_the_hostile_folder_has_a_name_of_its_own():
    assert not set(READABLE) & set(REFUSED)
