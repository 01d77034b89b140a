"""What the import says when a library that the engine needs is not there, or not the right one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pogfast import _engine


def import_with(packages: Path) -> str:
    """The last line of what an import of the engine says, with `packages` before all installed ones."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{Path(_engine.__file__).parent.parent}"}
    ran = subprocess.run(
        [sys.executable, "-c", "import pogfast._engine"], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 1
    return ran.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("package", "library", "name", "function"),
    [
        ("nacl", "_sodium.abi3.so", "PyNaCl", "sodium_init"),
        ("zstandard", "_cffi.so", "zstandard", "ZSTD_versionNumber"),
    ],
)
def test_a_library_that_lacks_a_function(tmp_path: Path, package: str, library: str, name: str, function: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    said = import_with(tmp_path)
    assert said.startswith(f"ImportError: pogfast needs {name}, which is not installed or cannot be loaded: pip")
    # Any other shared object will do for one that is too old.
    shutil.copy(find_spec("pogfast._engine").origin, tmp_path / package / library)
    said = import_with(tmp_path)
    assert said.startswith(f"ImportError: {name} ")
    assert f" lacks the function {function}: pip install '{name}" in said


# What a broken build, a wrong patch or a fault of the processor would give, one function at a time: (the package, its
# library, the function in C, the kernels that are named).
BROKEN = {
    "a tag of nothing": (
        "nacl",
        "int crypto_onetimeauth_poly1305_update(void* s, const void* m, unsigned long long n) { return 0; }",
        "sealing a blob",
    ),
    "a cipher that does nothing": (
        "nacl",
        "int crypto_stream_xsalsa20_xor_ic(unsigned char* c, const unsigned char* m, unsigned long long n,"
        " const void* i, unsigned long long b, const void* k) { while (n--) *c++ = *m++; return 0; }",
        "opening a blob",
    ),
    "tags that are all the same": (
        "nacl",
        "int crypto_verify_16(const void* a, const void* b) { return 0; }",
        "changed",
    ),
    "no random numbers": (
        "nacl",
        "#include <string.h>\nvoid randombytes_buf(void* p, size_t n) { memset(p, 0, n); }",
        "random numbers",
    ),
    "a public key that is not written": (
        "nacl",
        "int crypto_scalarmult_base(void* q, const void* n) { return 0; }",
        "X25519",
    ),
    "a larger state": ("nacl", "unsigned long crypto_onetimeauth_poly1305_statebytes(void) { return 1000; }", "state"),
    "a decompressor that says it is done": (
        "zstandard",
        "struct b { char* p; unsigned long n, at; };\nunsigned long ZSTD_decompressStream(void* d, struct b* o,"
        " struct b* i) { i->at = i->n; return 0; }",
        "decompression",
    ),
}


@pytest.mark.parametrize(("package", "function", "kernel"), BROKEN.values(), ids=BROKEN)
def test_a_kernel_that_gives_wrong_answers(tmp_path: Path, package: str, function: str, kernel: str) -> None:
    library = {"nacl": "_sodium.abi3.so", "zstandard": "_cffi.so"}[package]
    folder = Path(find_spec(package).origin).parent
    real = next(path for path in sorted(folder.glob("*.so")) if path.name.startswith(library.split(".")[0]))
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / "broken.c").write_text(function)
    # Looked up in the one that is broken first, then in what it is linked with.
    command = ["cc", "-shared", "-fPIC", "-o", tmp_path / package / library, tmp_path / "broken.c"]
    subprocess.run([*command, "-Wl,--no-as-needed", real], check=True)
    said = import_with(tmp_path)
    assert said.startswith("ImportError: ")
    assert kernel in said
    for command in ("pogfast", "pogfast.pog"):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(_engine.__file__).parent.parent}"}
        ran = subprocess.run(
            [sys.executable, "-m", command, "--keyfile=key", "nothing"]
            if command == "pogfast.pog"
            else [sys.executable, "-m", command, "list", "nothing", "--keyfile", "key"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert ran.returncode == 1
        assert kernel in ran.stderr
        assert "defect" not in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


OPENSSL = {
    "legacy alone": "legacy = activated",
    "nothing": "",
    "a provider that is not there": "nothing = activated",
    "null": "null = activated",
}


@pytest.mark.parametrize("providers", OPENSSL.values(), ids=OPENSSL)
def test_an_openssl_configuration_without_sha256(tmp_path: Path, providers: str) -> None:
    """All files became one blob: EVP_MD_fetch gave NULL, and no digest was ever computed."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        f"openssl_conf = start\n[start]\nproviders = providers\n[providers]\n{providers}\n[activated]\nactivate = 1\n"
    )
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    (tmp_path / "key").write_bytes(b"k" * 40)
    environment = {**os.environ, "OPENSSL_CONF": str(configuration), "POGFAST_CACHE_DIR": str(tmp_path / "cache")}

    def pogfast(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pogfast", *arguments, "--keyfile", "key"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)

    name = pogfast("create", "one", "two", "--to", "store", **environment).stdout.strip()
    assert len(list((tmp_path / "store" / "data").glob("*/*="))) == 2
    del environment["OPENSSL_CONF"]
    pogfast("restore", f"store/{name}", "--into", "restored", **environment)
    for name in ("one", "two"):
        assert (tmp_path / "restored" / name).read_bytes() == name.encode() * 1000


def test_the_zstd_is_that_of_the_wheel() -> None:
    import zstandard

    assert ".".join(map(str, zstandard.ZSTD_VERSION)) == _engine.ZSTD_VERSION
