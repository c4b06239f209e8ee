#!/usr/bin/env python3
"""Measures importing and checking a checkpoint beside other ways to keep one, and writes docs/benchmarks.md.

    python3 benches/peers/chain_peers.py [--shape import] [--rounds 3]

The same bytes, a synthetic checkpoint of 4 GiB, in turns: `cp`, `sync` and `b3sum`; blyan's import and its full
verification; safetensors' load and save; model-signing's sign and verify, with SHA-256 and BLAKE3. Everything is read
from the page cache, everything written is synced. Plain Python; what the peers need goes into the venv of run.py.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import report
from run import ROOT, STEP_SECONDS, TARGET, busy_share, machine, say, size_bytes

HERE = Path(__file__).resolve().parent
# Pinned, so that a figure can be made again. model-signing needs pyOpenSSL and does not say so.
PACKAGES = ["numpy==2.4.6", "gguf==0.19.0", "safetensors==0.8.0", "ml_dtypes==0.6.0"]
PACKAGES += ["model-signing==1.1.1", "pyOpenSSL==26.4.0", "blake3==1.0.11"]
BEGIN, END = "<!-- chain-peers:begin -->", "<!-- chain-peers:end -->"


# Steps: each runs in a process of the venv, and returns its seconds without those of starting Python.


def timed(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def sync(folder: Path) -> None:
    """Makes a folder's files and their names durable."""
    for place in [*folder.iterdir(), folder]:
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def b3sum(folder: Path) -> None:
    """As the program of that name: mapped, with all threads."""
    from blake3 import blake3

    for file in sorted(folder.iterdir()):
        blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest()


def step_copy(folder: Path, out: Path) -> dict:
    copied = timed(lambda: subprocess.run(["cp", "-r", folder, out], check=True))
    synced = timed(lambda: sync(out))
    return dict(copy_s=copied, sync_s=synced, b3sum_s=timed(lambda: b3sum(out)))


def step_safetensors(folder: Path, out: Path) -> dict:
    import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
    from safetensors.numpy import load_file, save_file

    shards = sorted(folder.glob("*.safetensors"))

    def load() -> None:
        for shard in shards:
            load_file(shard)

    def load_and_save() -> None:
        for shard in shards:
            save_file(load_file(shard), out / shard.name)

    out.mkdir()
    loaded, copied = timed(load), timed(load_and_save)
    return dict(load_s=loaded, load_save_s=copied, sync_s=timed(lambda: sync(out)))


def step_sign(folder: Path, out: Path, algorithm: str) -> dict:
    """Signs a folder and verifies it, with a new key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding, NoEncryption, PrivateFormat, PublicFormat,
    )  # fmt: skip
    from model_signing import hashing, signing, verifying

    out.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    private, public, signature = out / "key", out / "key.pub", out / "signature"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    config = hashing.Config().use_file_serialization(hashing_algorithm=algorithm)
    signer = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(config)
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    signed = timed(lambda: signer.sign(folder, signature))
    return dict(sign_s=signed, verify_s=timed(lambda: verifier.verify(folder, signature)))


STEPS = dict(copy=step_copy, safetensors=step_safetensors, sign=step_sign)


class Bench:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.bin = options.bin
        self.python = options.venv / "bin" / "python"
        self.folder = options.data / f"{options.shape}-hf"
        self.out = options.data / "chain-peers-out"
        self.found: dict[str, list[dict]] = {}

    def prepare(self) -> None:
        o = self.options
        o.data.mkdir(parents=True, exist_ok=True)
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", o.venv], check=True)
        if not o.no_install:
            pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES], check=True)
            build = ["cargo", "build", "--release", "--locked", "--manifest-path", HERE / "runner" / "Cargo.toml"]
            subprocess.run([*build, "--target-dir", TARGET / "build"], check=True)
        if not (self.folder / "config.json").exists():
            say(f"writing the checkpoint {self.folder}")
            subprocess.run([self.python, HERE / "models.py", "hf", o.shape, self.folder], cwd=HERE, check=True)
        sync(self.folder)

    def run(self, *command) -> dict:
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=STEP_SECONDS)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        result = json.loads(lines[-1]) if lines else dict(error=done.stderr.strip()[-400:])
        if "error" in result:
            sys.exit(f"{' '.join(words)}: {result['error']}")
        return result

    def settle(self) -> None:
        """Writes and removes as many bytes as the checkpoint has, so that every step finds memory that the host of a
        guest has given it: a host takes free memory back, and gives it again page by page."""
        copy = self.out / "settle"
        shutil.copytree(self.folder, copy)
        sync(copy)
        shutil.rmtree(copy)

    def step(self, name: str, *words) -> None:
        """Runs a step of this file on nothing that was there before, with nothing left to write back."""
        self.settle()
        out = self.out / name
        result = self.run(self.python, HERE / "chain_peers.py", "--step", words[0], self.folder, out, *words[1:])
        self.keep(name, result, out)

    def blyan(self, dtype: str) -> None:
        self.settle()
        chain = self.out / f"blyan-{dtype}"
        result = self.run(self.bin / "blyan-peer", "import", self.folder, chain, dtype)
        result["check_s"] = self.run(self.bin / "blyan-peer", "check", chain)["seconds"]
        self.keep(f"blyan {dtype}", result, chain)

    def keep(self, name: str, result: dict, out: Path) -> None:
        say(f"  {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in result.items() if key.endswith("s")))
        self.found.setdefault(name, []).append(result)
        shutil.rmtree(out)
        os.sync()

    def measure(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.sync()
        # Into the page cache.
        for file in self.folder.iterdir():
            file.read_bytes()
        self.busy = busy_share()
        probe = lambda: self.run(self.bin / "probe", self.options.data, "--mib", "1024")
        self.probes = [probe()]
        for number in range(self.options.rounds):
            say(f"round {number + 1} of {self.options.rounds}")
            self.step("copy", "copy")
            for dtype in ("kept", "int8", "fp8", "int4"):
                self.blyan(dtype)
            self.step("safetensors", "safetensors")
            for algorithm in ("sha256", "blake3"):
                self.step(f"sign {algorithm}", "sign", algorithm)
        self.probes.append(probe())
        shutil.rmtree(self.out)

    # The page

    def seconds(self, name: str, *keys: str) -> list[float]:
        return [sum(result[key] for key in keys) for result in self.found[name]]

    def page(self) -> str:
        size = size_bytes(self.folder)
        facts = machine(len(os.sched_getaffinity(0)))
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
        median = report.median
        plain = median(self.seconds("copy", "copy_s", "sync_s", "b3sum_s"))
        checked = median(self.seconds("copy", "b3sum_s"))
        copied = median(self.seconds("copy", "copy_s", "sync_s"))

        rounds = self.options.rounds
        turns = "one round" if rounds == 1 else f"in turns, medians of {rounds} with least and most"

        def row(what: str, found: list[float], beside: float) -> str:
            rate = size / median(found) / 1e9
            return f"| {what} | {report.spread(found)} | {rate:.2f} | {beside / median(found):.2f} |"

        signed = lambda algorithm: [copied + time for time in self.seconds(f"sign {algorithm}", "sign_s")]
        lines = [
            "## Importing and checking, beside other ways to keep a checkpoint",
            "",
            "```console",
            "$ python3 benches/peers/chain_peers.py",
            "```",
            "",
            f"A synthetic checkpoint of {size / 2**30:.2f} GiB in bf16 ({len(list(self.folder.glob('*.safetensors')))} "
            f"files), {turns}; commit {commit.stdout.strip()}, "
            f"{time.strftime('%Y-%m-%d')}, {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB. Read from "
            "the page cache; what is written is durable when the time ends. Before each step as many bytes were written "
            "and removed, so that all find memory that the host has given already. “GB/s” counts the checkpoint's bytes, "
            "whatever is made of them.",
            "",
            "| import | seconds | GB/s | of cp + sync + b3sum |",
            "|---|---:|---:|---:|",
            row("`cp`, `sync`, `b3sum`", self.seconds("copy", "copy_s", "sync_s", "b3sum_s"), plain),
            row("blyan", self.seconds("blyan kept", "seconds"), plain),
            *(row(f"blyan, {d}", self.seconds(f"blyan {d}", "seconds"), plain) for d in ("int8", "fp8", "int4")),
            row("safetensors load and save, `sync`", self.seconds("safetensors", "load_save_s", "sync_s"), plain),
            row("`cp`, `sync`, model-signing sign, sha256", signed("sha256"), plain),
            row("`cp`, `sync`, model-signing sign, blake3", signed("blake3"), plain),
            "",
            "| check | seconds | GB/s | of b3sum |",
            "|---|---:|---:|---:|",
            row("`b3sum`", self.seconds("copy", "b3sum_s"), checked),
            row("blyan, full verification", self.seconds("blyan kept", "check_s"), checked),
            row("model-signing verify, sha256", self.seconds("sign sha256", "verify_s"), checked),
            row("model-signing verify, blake3", self.seconds("sign blake3", "verify_s"), checked),
            row("safetensors load, which checks nothing", self.seconds("safetensors", "load_s"), checked),
            "",
            self.quantizing(size, copied),
            "",
        ]
        return "\n".join(map(report.wrapped, lines))

    def quantizing(self, size: int, copied: float) -> str:
        """The rate of quantizing beside the limits of the disk and the memory, both of this run."""
        reads = [probe[key] for probe in self.probes for key in report.PROBES if key.startswith("read_") and probe.get(key)]
        shares = []
        for dtype in ("int8", "fp8", "int4"):
            written = self.found[f"blyan {dtype}"][0]["bytes"]
            seconds = report.median(self.seconds(f"blyan {dtype}", "seconds"))
            disk = written / (size / copied)
            shares.append(
                f"{dtype} reads {size / seconds / 1e9:.2f} GB/s of bf16 and writes {written / seconds / 1e9:.2f} GB/s: "
                f"{disk / seconds:.2f} of what `cp` and `sync` write in that time"
            )
        return (
            f"Quantizing: {'; '.join(shares)}. `cp` and `sync` write {size / copied / 1e9:.2f} GB/s, and the fastest read "
            f"of memory that was probed before and after is {max(reads):.0f} GB/s. "
            f"{self.busy:.0%} of the CPU was busy with something else before the run."
        )

    def write(self) -> None:
        docs = self.options.docs
        text = docs.read_text()
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            sys.exit(f"{docs} lacks the markers {BEGIN} and {END}")
        docs.write_text(f"{before}{BEGIN}\n{self.page()}{END}{after}")
        say(f"wrote {docs}")


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        name, folder, out, *words = sys.argv[2:]
        print(json.dumps(STEPS[name](Path(folder), Path(out), *words)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="import", help="of shapes.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-install", action="store_true", help="take the venv and the programs as they are")
    parser.add_argument("--venv", type=Path, default=TARGET / "venv", help="a venv to use")
    parser.add_argument("--bin", type=Path, default=TARGET / "build" / "release", help="where the programs are")
    parser.add_argument("--data", type=Path, default=TARGET / "models", help="where things are written")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoint")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the page to write into")
    bench = Bench(parser.parse_args())
    bench.prepare()
    bench.measure()
    bench.write()
    if not bench.options.keep:
        shutil.rmtree(bench.folder)


if __name__ == "__main__":
    main()
