#!/usr/bin/env python3
"""Measures blyan beside its peers on this machine and writes a page of it: see README.md.

    python3 benches/peers/run.py --short            the small shape, each case once: some five minutes
    python3 benches/peers/run.py --full             several turns, OLMoE-1B-7B's shape and small models too

Plain Python; what the peers need goes into a venv under target/peers. Results are merged into the JSON file beside the
page under the name of what was measured, so a long run can be made in parts, and any of them again.
"""

import argparse
import contextlib
import json
import mmap
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import report
from plan import CASES, METRICS, MODELS, SHORT_MODELS, SLOW_WITH_TORCH, Case, Model, Pair

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target" / "peers"
# Pinned, so that a figure can be made again.
PACKAGES = ["numpy==2.4.6", "gguf==0.19.0", "safetensors==0.8.0", "torch==2.15.0", "transformers==5.23.0"]
# Its build asks for cmake and ninja by itself.
LLAMA = "llama-cpp-python==0.3.36"
STEP_SECONDS = 600
MEMORY_BYTES = 22 << 30
HUGE_PAGE_BYTES = 2 << 20


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Failure(Exception):
    """A step that gave no result; the text is the line of the report."""


class Bench:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.data = options.data
        self.bin = TARGET / "build" / "release"
        self.python = options.venv / "bin" / "python"
        self.store = options.docs.with_suffix(".json")
        self.results = load(self.store)
        self.made: list[Path] = []
        self.cores = set(sorted(os.sched_getaffinity(0))[: options.threads])
        # The variants of a peer that were the fastest, by what they were tried for.
        self.fastest: dict[tuple, list[tuple[str, ...]]] = {}
        # The last probe, by the chain that it was asked for.
        self.probed: dict[str, dict] = {}

    # Setting up

    def prepare(self) -> None:
        here = machine(self.options.threads)
        if is_of_another(self.results, here):
            name = lambda of: f"{of['cpu']} with {of['cores']} cores"
            sys.exit(f"{self.store} is of {name(self.results['machine'])}, this is {name(here)}: move it away, or give --docs")
        self.options.docs.parent.mkdir(parents=True, exist_ok=True)
        report.around(self.options.docs)
        self.results["machine"] = here
        TARGET.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        if not self.python.exists():
            say("making a venv")
            subprocess.run([sys.executable, "-m", "venv", self.options.venv], check=True)
        if not self.options.no_install:
            pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            say("installing the peers (llama.cpp is compiled for this CPU: some ten minutes the first time)")
            packages = [p for p in PACKAGES if not (self.options.no_torch and p.startswith(("torch", "transformers")))]
            subprocess.run([*pip, *packages], check=True)
            native = os.environ | {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
            subprocess.run([*pip, "--no-binary", "llama-cpp-python", LLAMA], check=True, env=native)
        say("building blyan and the probe")
        build = ["cargo", "build", "--release", "--locked", "--manifest-path", HERE / "runner" / "Cargo.toml"]
        build += ["--target-dir", TARGET / "build"]
        if not self.options.no_candle:
            build += ["--features", "candle"]
        subprocess.run(build, check=True)
        # Those of peers that an earlier part measured stay.
        self.results["versions"] = self.results.get("versions", {}) | self.versions()

    def versions(self) -> dict:
        listed = subprocess.run([self.python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
        wanted = {"numpy", "gguf", "torch", "transformers", "llama-cpp-python", "llama_cpp_python"}
        found = {p["name"].replace("_", "-"): p["version"] for p in json.loads(listed.stdout) if p["name"] in wanted}
        rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
        found |= dict(rustc=rustc, python=platform.python_version())
        lock = (HERE / "runner" / "Cargo.lock").read_text().split("[[package]]")
        for package in lock:
            if 'name = "candle-core"' in package:
                found["candle-core"] = package.split('version = "')[1].split('"')[0]
        return found

    # Running

    def run(self, command: list, pinned: bool = True) -> dict:
        """One step in a process of its own, pinned to as many cores as it has threads; its line of JSON."""

        def limits() -> None:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
            if pinned:
                os.sched_setaffinity(0, self.cores)

        threads = str(self.options.threads)
        environment = os.environ | dict(
            RAYON_NUM_THREADS=threads, OMP_NUM_THREADS=threads, HF_HUB_OFFLINE="1", BLYAN_PROBE=str(self.bin / "probe")
        )  # fmt: skip
        try:
            done = subprocess.run(
                [str(part) for part in command],
                capture_output=True, text=True, timeout=STEP_SECONDS, preexec_fn=limits, env=environment, cwd=HERE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failure(f"took more than {STEP_SECONDS} s") from None
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines:
            tail = (done.stderr.strip().splitlines() or [""])[-1][:200]
            raise Failure(f"ended with status {done.returncode}: {tail}")
        result = json.loads(lines[-1])
        if "error" in result:
            raise Failure(result["error"])
        return result

    def tool(self, *command) -> None:
        done = subprocess.run([str(part) for part in (self.python, HERE / "models.py", *command)], cwd=HERE)
        if done.returncode:
            raise Failure("models.py " + " ".join(map(str, command[:3])) + " failed")

    def probe(self, chain: Path | Failure) -> dict:
        """The machine's limits now; in the short mode as they were for the chain's first case."""
        if not (self.options.short and str(chain) in self.probed):
            payloads = ["--payloads", chain] if isinstance(chain, Path) else []
            command = [self.bin / "probe", self.data, "--threads", self.options.threads, *payloads]
            try:
                self.probed[str(chain)] = self.run(command)
            except Failure as failure:
                say(f"  no limits of the machine: {failure}")
                self.probed[str(chain)] = {}
        return self.probed[str(chain)]

    # Models

    def chain(self, model: Model, dtype: str) -> Path:
        chain = self.data / f"{model.name}-{dtype}"
        if chain.exists():
            return chain
        # Before a folder is written for nothing.
        self.run([self.bin / "blyan-peer", "dtype", dtype])
        folder = self.folder(model)
        say(f"importing {model.name} as {dtype}")
        partial = chain.with_name(chain.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self.run([self.bin / "blyan-peer", "import", folder, partial, dtype], pinned=False)
        except Failure:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            if not self.keeps_to_the_end(model):
                self.drop_folder(model)
        partial.rename(chain)
        # Written pages are small ones; read again, they may be huge.
        evict([chain])
        self.made.append(chain)
        return chain

    def folder(self, model: Model) -> Path:
        if model.folder:
            folder = ROOT / model.folder
            if not (folder / "config.json").exists():
                raise Failure(f"{model.folder} is not there: {model.how_to_get}")
            return folder
        folder = self.data / f"{model.name}-hf"
        if not (folder / "config.json").exists():
            say(f"writing {model.name} as a Hugging Face folder")
            self.tool("hf", model.name, folder)
        return folder

    def drop_folder(self, model: Model) -> None:
        if not model.folder and not self.options.keep:
            shutil.rmtree(self.data / f"{model.name}-hf", ignore_errors=True)

    def gguf(self, model: Model, kind: str) -> Path:
        path = self.data / f"{model.name}-{kind}.gguf"
        if not path.exists():
            say(f"writing {model.name} as {kind}")
            source = ["convert", self.folder(model)] if model.folder else ["gguf", model.name]
            self.tool(*source, kind, path)
            evict([path])
            self.made.append(path)
        return path

    def config(self, model: Model) -> Path:
        """For a peer that makes its own weights."""
        path = self.data / f"{model.name}-config.json"
        self.tool("config", model.name, path)
        return path

    def keeps_to_the_end(self, model: Model) -> bool:
        """Whether what is made of a model stays until all its pairs are measured: it is small, and used again."""
        return self.options.short and model.name in SHORT_MODELS

    def clean(self, keep: list[Path]) -> None:
        """Removes the models that this run made, so that the next pair has room."""
        for path in [path for path in self.made if path not in keep and not self.options.keep]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self.made.remove(path)

    # Measuring

    def blyan_command(self, chain: Path, case: Case) -> list:
        return [self.bin / "blyan-peer", *case.arguments(chain), "--threads", self.options.threads]

    def peer_command(self, pair: Pair, source: Path, case: Case, variant: tuple[str, ...]) -> list:
        program = {
            "llama.cpp": [self.python, HERE / "llama_peer.py"],
            "torch": [self.python, HERE / "torch_peer.py"],
            "candle": [self.bin / "candle-peer"],
            "blyan": [self.bin / "blyan-peer"],
        }[pair.peer]
        return [*program, *case.arguments(source), "--threads", self.options.threads, *variant]

    def measure_peer(self, model: Model, pair: Pair, source: Path, case: Case) -> dict:
        """Of each figure the best that a variant of the peer gives. After the first round those variants are left
        that were the best in something."""
        scope = (model.name, pair.peer, pair.peer_type, case.name)
        tried, failures = [], []
        for variant in self.fastest.get(scope, pair.variants()):
            try:
                tried.append((variant, self.run(self.peer_command(pair, source, case, variant))))
            except Failure as failure:
                failures.append(str(failure))
        if not tried:
            raise Failure(failures[0])
        merged, winners = dict(tried[0][1]), []
        for metric, sign in METRICS.items():
            rate = lambda result: sign * report.typical(result, metric, self.results["machine"])
            found = [(rate(result), variant, result) for variant, result in tried if metric in result]
            if found:
                _, variant, result = max(found, key=lambda candidate: candidate[0])
                for key in (metric, report.PARTS.get(metric)):
                    if key in result:
                        merged[key] = result[key]
                if variant not in winners:
                    winners.append(variant)
        winners = winners or [tried[0][0]]
        self.fastest[scope] = winners
        return merged | dict(variant=", ".join(" ".join(variant) for variant in winners))

    def settle(self, places: list[Path]) -> None:
        """Reads models into memory that the host has given already; not in the short mode, for the time it takes."""
        if not self.options.short:
            evict(places)
            claim_free_memory(4 * sum(map(size_bytes, places)))
            for place in places:
                read_as_mapped(place) if place.is_dir() else read_through(place)

    def measure(
        self, model: Model, pair: Pair, case: Case, chain: Path | Failure, source: Path | Failure | None, both_fit: bool
    ) -> None:
        """Rounds of blyan and the peer in turns, with a probe before, between and after."""
        key = f"{model.name}/{case.name}/{pair.name}"
        busy = busy_share()
        say(key + (f" ({busy:.0%} of the CPU is busy with something else)" if busy > 0.05 else ""))
        sides: dict[str, dict] = {"blyan": dict(rounds=[]), "theirs": dict(rounds=[])}
        for side, place in (("blyan", chain), ("theirs", source)):
            if isinstance(place, Failure):
                sides[side]["error"] = str(place)
        if source is None or not case.peers:
            del sides["theirs"]
        probes = [self.probe(chain)]
        # A case that is over at the first token has to find its pages in memory.
        rounds = case.rounds(self.options.rounds) + (1 if case.discards_first else 0)
        for number in range(rounds):
            for side, place, other in (("blyan", chain, source), ("theirs", source, chain)):
                if side not in sides or "error" in sides[side]:
                    continue
                if not both_fit and isinstance(other, Path):
                    evict([other])
                    self.settle([place])
                try:
                    if side == "blyan":
                        result = self.run(self.blyan_command(chain, case))
                    else:
                        result = self.measure_peer(model, pair, source, case)
                    if number or not case.discards_first:
                        sides[side]["rounds"].append(result)
                except Failure as failure:
                    sides[side]["error"] = str(failure)
                    who = f"blyan {pair.dtype}" if side == "blyan" else f"{pair.peer} {pair.peer_type}"
                    say(f"  {who}: {failure}")
            if all("error" in side for side in sides.values()):
                break
            if number == rounds - 1 or not case.discards_first:
                probes.append(self.probe(chain))
        # The page, which each case is written into, is no change of what is measured.
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "describe", "--always"], capture_output=True, text=True).stdout.strip()
        changed = ["diff", "--quiet", "HEAD", "--", ".", ":(exclude)docs"]
        if subprocess.run([*git, *changed], capture_output=True).returncode != 0:
            commit += "-dirty"
        entry = dict(
            model=model.name, case=case.name, dtype=pair.dtype, peer=pair.peer, peer_type=pair.peer_type,
            threads=self.options.threads, commit=commit, time=time.strftime("%Y-%m-%d %H:%M"),
            busy=busy, probes=probes, **sides,
        )  # fmt: skip
        report.compare_logits(entry)
        self.save(key, entry)

    def save(self, key: str, entry: dict) -> None:
        """Merges one result into what is stored by now."""
        facts = dict(machine=self.results["machine"], versions=self.results["versions"])
        facts |= dict(short=True) if self.options.short else {}
        self.results = load(self.store) | facts
        self.results.setdefault("results", {})[key] = entry
        partial = self.store.with_suffix(".part")
        partial.write_text(one_line_each(self.results))
        partial.replace(self.store)

    def measure_pair(self, model: Model, pair: Pair, cases: list[Case], keep: list[Path]) -> None:
        chain: Path | Failure
        source: Path | Failure | None = None
        try:
            chain = self.chain(model, pair.dtype)
        except Failure as failure:
            chain = failure
        try:
            if pair.peer == "blyan":
                source = self.chain(model, pair.peer_type)
            elif pair.peer == "torch":
                source = self.config(model)
            elif pair.peer:
                source = self.gguf(model, pair.peer_type)
        except Failure as failure:
            source = failure
        places = [path for path in (chain, source) if isinstance(path, Path)]
        both_fit = sum(map(size_bytes, places)) < 0.7 * memory_bytes()
        if both_fit:
            self.settle(places)
        for case in cases:
            self.measure(model, pair, case, chain, source, both_fit)
        if not self.keeps_to_the_end(model):
            self.clean(keep)

    def measure_all(self) -> None:
        o = self.options
        left_out = {"torch": o.no_torch, "candle": o.no_candle}
        for model in (MODELS[name] for name in o.models):
            pairs = [pair for pair in model.pairs if not left_out.get(pair.peer)]
            pairs = [pair for pair in pairs if not o.dtypes or pair.dtype in o.dtypes]
            try:
                for number, pair in enumerate(pairs):
                    wanted = [CASES[name] for name in pair.cases if not o.only or name in o.only]
                    if o.short:
                        wanted = [case.once() for case in wanted if not (pair.peer == "torch" and case.name in SLOW_WITH_TORCH)]
                    if not wanted:
                        continue
                    # What the next pair of the model measures too stays.
                    following = pairs[number + 1 : number + 2]
                    names = [name for after in following for name in (after.dtype, after.source_name)]
                    keep = [self.data / f"{model.name}-{name}" for name in names]
                    self.measure_pair(model, pair, wanted, keep)
            finally:
                self.clean([])
                self.drop_folder(model)


def machine(threads: int) -> dict:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
    flags = set(cpu.get("flags", "").split())
    return dict(
        cpu=f"{cpu.get('model name', platform.machine())} (family {cpu.get('cpu family')}, model {cpu.get('model')})",
        flags=[flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags],
        cores=os.cpu_count(), threads=threads, memory_gib=round(memory_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
    )  # fmt: skip


def is_of_another(results: dict, here: dict) -> bool:
    """Whether what is stored was measured on another machine, whose figures say nothing beside these."""
    stored = results.get("machine", here)
    return (stored["cpu"], stored["cores"]) != (here["cpu"], here["cores"])


def page(short: bool, threads: int) -> Path:
    """The repository's page on the machine that it is of, else one that is this machine's own. What the short mode
    measures once never takes the place of what was measured several times."""
    docs = ROOT / "docs" / "benchmarks.md"
    if short:
        return TARGET / "short.md"
    if is_of_another(load(docs.with_suffix(".json")), machine(threads)):
        return TARGET / "benchmarks.md"
    return docs


def load(store: Path) -> dict:
    return json.loads(store.read_text()) if store.exists() else {}


def busy_share() -> float:
    """Part of the CPU that others use, while nothing of ours runs."""

    def ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return fields[3] + fields[4], sum(fields)

    idle, total = ticks()
    time.sleep(1)
    idle_after, total_after = ticks()
    return 1 - (idle_after - idle) / max(total_after - total, 1)


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in files(path))


def evict(paths: list[Path]) -> None:
    """Drops files from the page cache."""
    for file in (file for path in paths for file in files(path)):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def claim_free_memory(most_bytes: int) -> None:
    """Writes free memory and lets go of it. A host takes back what its guest does not use, and gives it again when a file
    is read from the disk, in pages so small that the file is slower to read than other memory for as long as it is cached.
    What was written just now is whole, and is what the kernel gives next."""
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemFree:"))
    left = (1 << 30) + HUGE_PAGE_BYTES
    length = min(int(free.split()[1]) * 1024 - left, most_bytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    if length > 0:
        with mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            in_huge_pages(memory)
            page = b"\x01" * HUGE_PAGE_BYTES
            for start in range(0, length, HUGE_PAGE_BYTES):
                memory[start : start + HUGE_PAGE_BYTES] = page


def in_huge_pages(memory: mmap.mmap) -> None:
    # A kernel without them says no.
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)


def read_as_mapped(folder: Path) -> None:
    """Reads a chain through maps like blyan's."""
    for file in files(folder):
        with open(file, "rb") as opened:
            if file.stat().st_size:
                with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as memory:
                    in_huge_pages(memory)
                    # A byte of each page.
                    memory[:: mmap.PAGESIZE]


def read_through(path: Path) -> None:
    buffer = bytearray(8 << 20)
    with open(path, "rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def one_line_each(stored: dict) -> str:
    """JSON with a line for each result and floats of six digits, so that a commit shows what was measured again."""

    def short(value):
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return [short(inner) for inner in value] if isinstance(value, list) else value

    lines = lambda entries: ",\n".join(f"{json.dumps(key)}: {json.dumps(short(value))}" for key, value in entries)
    facts = ((key, value) for key, value in stored.items() if key != "results")
    return f'{{\n{lines(facts)},\n"results": {{\n{lines(stored["results"].items())}\n}}\n}}\n'


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="each case once, without what takes torch longest")
    parser.add_argument("--full", action="store_true", help="small models and OLMoE-1B-7B's shape as well as the small one")
    words = lambda text: text.split(",")
    parser.add_argument("--models", type=words, help=f"of {','.join(MODELS)}")
    parser.add_argument("--only", type=words, help=f"cases: of {','.join(CASES)}")
    parser.add_argument("--dtypes", type=words, help="blyan's dtypes whose pairs are measured")
    parser.add_argument("--rounds", type=int, help="turns of blyan and the peer; of each case its own number else")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="all cores")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-candle", action="store_true")
    parser.add_argument("--no-install", action="store_true", help="take the venv as it is")
    parser.add_argument("--venv", type=Path, default=TARGET / "venv", help="a venv to use")
    parser.add_argument("--data", type=Path, default=TARGET / "models", help="where models are made")
    parser.add_argument("--keep", action="store_true", help="keep the models")
    parser.add_argument("--report-only", action="store_true", help="write the page from the figures beside it")
    parser.add_argument(
        "--docs", type=Path,
        help="the page to write into; target/peers/short.md in the short mode, else docs/benchmarks.md, or on another "
        "machine than its own target/peers/benchmarks.md",
    )  # fmt: skip
    o = parser.parse_args()
    o.docs = o.docs or page(o.short, o.threads)
    if o.models is None:
        o.models = ["small", "tiny-kjv-moe", "smollm2", "olmoe"] if o.full else SHORT_MODELS
    unknown = [name for name in o.models if name not in MODELS] + [name for name in o.only or [] if name not in CASES]
    if unknown:
        parser.error("unknown: " + ", ".join(unknown))
    if (o.short and o.full) or not (o.short or o.full or o.report_only or o.only):
        parser.error("give --short or --full")
    o.data = o.data.resolve()
    o.venv = o.venv.resolve()
    return o


def main() -> None:
    o = options()
    bench = Bench(o)
    if not o.report_only:
        bench.prepare()
        bench.measure_all()
        # With the digits that are stored, as it is written again.
        bench.results = load(bench.store)
    elif not bench.results:
        sys.exit(f"{bench.store} is not there")
    report.write(bench.results, o.docs)
    say(f"wrote {o.docs}")


if __name__ == "__main__":
    main()
