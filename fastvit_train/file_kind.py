"""What a file is that was given in place of weights."""

import zipfile
from pathlib import Path

__all__ = ["HEAD_BYTES", "is_safetensors", "kind_of"]

HEAD_BYTES = 512
"""As many of a file's first bytes tell its kind."""

_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
_ZIP = b"PK\x03\x04"
# Where the bytes stand, the bytes, and what such a file is.
_SIGNATURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file; get the file itself with: git lfs pull"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (0, b"BZh", "compressed with bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes; PyTorch's weights are needed"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GGUF", "a GGUF file"),
    (257, b"ustar", "a tar archive; unpack it first"),
)


def kind_of(path: Path, head: bytes) -> str:
    """Say what a file is that is neither of `torch.save` nor of safetensors, and what to do if that is known.

    Args:
        path: The file.
        head: Its first `HEAD_BYTES` bytes.

    Returns:
        To go on after "it is".

    Examples:
        >>> from pathlib import Path
        >>> from fastvit_train.file_kind import kind_of
        >>> kind_of(Path("a.pth"), b"<!DOCTYPE html>")
        'a web page (HTML) in place of the file; download it again'
    """
    start = head.lstrip().lower()
    if not head:
        return "empty"
    if path.suffix == ".beton":
        return "a .beton file, which holds images: --data.train and --data.val take it"
    if head.startswith(_ZIP):
        return _kind_of_zip(path)
    if is_safetensors(head):
        return "a safetensors file, which holds weights alone"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page (HTML) in place of the file; download it again"
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    shown = ascii(head[:40])[1:]
    return f"text that begins with {shown}" if _is_text(head) else f"of an unknown kind: it begins with {shown}"


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is of safetensors: the length of a JSON text, then the text."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in head)


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return "cut short or damaged: it begins as a zip archive, and its end is missing"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program; save its state_dict() with torch.save"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz); PyTorch's weights are needed"
    return f"a zip archive without weights of PyTorch{f'; its first file is {names[0]!a}' if names else ''}"
