"""WebDataset tars: those of its library, those of Python, and those that are none."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from image_files import colours
from leapstep.data import read, tars


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, members, form=tarfile.USTAR_FORMAT):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(pixels, labelled=True, name="{:05}"):
    for i, picture in enumerate(pixels):
        yield name.format(i) + ".png", png(picture)
        if labelled:
            yield name.format(i) + ".cls", str(i % 3).encode()


def check(data, pixels, labelled=True):
    np.testing.assert_array_equal(data.values, pixels.transpose(0, 3, 1, 2))
    assert (data.labels is not None) == labelled
    if labelled:
        assert data.labels.tolist() == [i % 3 for i in range(len(pixels))]
        assert data.classes == ("0", "1", "2")


def test_shards_of_the_webdataset_library(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pixels = colours(11)
    (tmp_path / "w").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "w" / "%03d.tar"), maxcount=4, verbose=0) as writer:
        for i, picture in enumerate(pixels):
            more = {"json": {"caption": "a"}, "txt": "b" * 1000} if i % 2 else {}
            writer.write({"__key__": f"{i:04}", "png": Image.fromarray(picture), "cls": i % 3, **more})
    for on_demand in (False, True):
        check(read(tmp_path / "w", on_demand=on_demand), pixels)
    check(read(tmp_path / "w" / "000.tar"), pixels[:4])
    assert read(tmp_path / "w", on_demand=True, size=2, channels=1).shape == (1, 2, 2)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["{:03}", "n/" * 60 + "{:03}", "é" * 120 + "{:03}", "a.b/{:03}"])
def test_names_of_any_length_in_each_form_of_tar(tmp_path, form, name):
    if form == tarfile.USTAR_FORMAT and "é" in name:
        return  # which has no place for it
    pixels = colours(3)
    path = write(tmp_path / "x.tar", samples(pixels, name=name), form)
    check(read(path, on_demand=True), pixels)
    known = read(path, on_demand=True).names
    assert len(set(known.tolist())) == 3
    assert np.array_equal(known, read(path.rename(tmp_path / "d.tar").rename(path), on_demand=True).names)


def test_what_belongs_to_no_picture_and_large_files_between_are_passed_by(tmp_path):
    pixels = colours(3)
    first, second, third = (list(samples(pixels))[2 * i : 2 * i + 2] for i in range(3))
    large = [("between.bin", bytes(3 * tars.NEAR + 17))]
    others = [("README", b"about"), (".hidden.png", png(pixels[0])), ("lonely.cls", b"7"), ("00000x.json", b"{}")]
    write(tmp_path / "x.tar", [*first, *others, *large, *second, *large, *third])
    check(read(tmp_path / "x.tar", on_demand=True), pixels)
    unlabelled = write(tmp_path / "y.tar", [*first, second[0], *third])
    check(read(unlabelled, on_demand=True), pixels, labelled=False)
    check(read(unlabelled), pixels, labelled=False)


def test_the_scan_is_kept_until_a_tar_changes(tmp_path, cache, monkeypatch):
    pixels = colours(4)
    path = write(tmp_path / "x.tar", samples(pixels))
    check(read(path, on_demand=True), pixels)
    scan = tars.scan
    monkeypatch.setattr(tars, "scan", lambda *_: pytest.fail("scanned once more"))
    check(read(path, on_demand=True), pixels)
    monkeypatch.setattr(tars, "scan", scan)
    write(path, samples(pixels[:3]))
    check(read(path, on_demand=True), pixels[:3])
    for kept in (cache / "tars").iterdir():
        content = kept.read_bytes()
        for broken in (b"broken", content[:-1] + bytes([content[-1] ^ 1])):
            kept.write_bytes(broken)
            check(read(path, on_demand=True), pixels[:3])


def test_a_picture_has_its_name_in_the_folder_that_is_read(tmp_path):
    write(tmp_path / "d.tar", samples(colours(3))).rename((tmp_path / "sub").mkdir() or tmp_path / "sub" / "x.tar")
    above, here = (read(folder, on_demand=True).names for folder in (tmp_path, tmp_path / "sub"))
    alone = read(tmp_path / "sub" / "x.tar", on_demand=True).names
    assert not set(above.tolist()) & set(here.tolist())
    np.testing.assert_array_equal(here, alone)


def header(name=b"a.png", size=b"00000000010\0", kind=b"0"):
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"00000000000\0" + b" " * 8 + kind
    return (fields.ljust(257, b"\0") + b"ustar\00000").ljust(512, b"\0")


END = bytes(1024)
BROKEN = {
    "ends without the mark of a tar's end": b"",
    "ends without the mark": header() + bytes(512),
    "there is no header at byte 0": b"x" * 2048,
    "packed with gzip: unpack it": b"\x1f\x8b" + bytes(2000),
    "there is no header at byte 1024": header() + bytes(512) + b"\7" * 512 + END,
    "would have 1073741824 bytes": header(size=b"10000000000\0") + bytes(512) + END,
    "would have .* bytes": header(size=b"\xff" * 12) + bytes(512) + END,
    "tells no size": header(size=b"00000000019\0") + bytes(512) + END,
    "unknown kind": header(kind=b"Q") + bytes(512) + END,
    "extended header .* is damaged": header(kind=b"x", size=b"00000000007\0") + b"9 a=b\nx".ljust(512, b"\0") + END,
    "the name at byte 512 has 16777216 bytes": header(kind=b"L", size=b"00100000000\0") + bytes(512) + END,
    "not the number of a class": header(b"a.cls", b"00000000003\0") + b"cat".ljust(512, b"\0") + END,
    "number the classes from 0": header(b"a.cls", b"00000000002\0") + b"-1".ljust(512, b"\0") + END,
    r"no images \(": END,
}


@pytest.mark.parametrize("said", BROKEN)
def test_broken_tars_are_refused_in_one_line(tmp_path, said):
    (tmp_path / "x.tar").write_bytes(BROKEN[said])
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path / "x.tar")
    assert str(tmp_path / "x.tar") in str(error.value)
    assert "\n" not in str(error.value)


def test_every_cut_of_a_tar_is_noticed(tmp_path):
    whole = write(tmp_path / "x.tar", samples(colours(3))).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, end, 256):
        (tmp_path / "x.tar").write_bytes(whole[:length])
        with pytest.raises(tars.Broken):
            tars.scan(tmp_path / "x.tar", "x", frozenset([b"png"]))


def test_a_link_in_a_tar_leads_nowhere(tmp_path):
    pixels = colours(2)
    (tmp_path / "secret.png").write_bytes(png(pixels[0]))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in samples(pixels):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("9.png")
            link.type, link.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(link)
    assert len(read(tmp_path / "x.tar", on_demand=True)) == 2
