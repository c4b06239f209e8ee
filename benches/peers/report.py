"""Owns the page: benchmarks.json in, the part of docs/benchmarks.md between the markers out. Plain Python."""

import statistics
import textwrap
from pathlib import Path

from plan import CASES, MODELS, SLOW_WITH_TORCH
from shapes import SHAPES

BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"


def median(values: list) -> float | None:
    return statistics.median(values) if values else None


def values(side: dict | None, key: str) -> list[float]:
    return [entry[key] for entry in (side or {}).get("rounds", []) if entry.get(key) is not None]


def number(value: float | None) -> str:
    """Three digits, more where a number is large."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(found: list[float]) -> str:
    """The median, and the least and the most of several; of many, what half of them lie between."""
    if len(found) < 2:
        return number(found[0]) if found else "–"
    quarters = statistics.quantiles(found, n=4) if len(found) >= 8 else (min(found), 0, max(found))
    return f"{number(median(found))} ({number(quarters[0])}–{number(quarters[2])})"


# Where the cores were, by the nanoseconds that a cache line took between them: `near` below, else `apart`. On AMD's CPUs it
# is 30 to 50 on a die or 135 to 175 from one to another; Intel's large dies have 55 to 111 nine times of ten, whatever memory gives.
NEAR_NS = 100
# Figures that are measured a few steps at a time, and where those parts are.
PARTS = dict(decode_tokens_per_s="decode_parts", batch_tokens_per_s="batch_parts")


def place(before: float | None, after: float | None) -> str | None:
    if before is None or after is None:
        return None
    if (before < NEAR_NS) != (after < NEAR_NS):
        return "moved"
    return "near" if before < NEAR_NS else "apart"


def places(side: dict | None, metric: str) -> dict[str | None, list[float]]:
    """The values of a figure by where the cores were, `None` where that was not measured."""
    found: dict[str | None, list[float]] = {}
    for result in (side or {}).get("rounds", []):
        if metric in PARTS and PARTS[metric] in result:
            for rate, before, after in result[PARTS[metric]]:
                found.setdefault(place(before, after), []).append(rate)
        elif result.get(metric) is not None:
            found.setdefault(None, []).append(result[metric])
    return found


def without_places(results: dict) -> dict:
    """The same figures and probes, nothing said of where the cores were."""

    def side(found: dict) -> dict:
        cut = lambda parts: [[rate, None, None] for rate, *_ in parts]
        cut_round = lambda result: {key: cut(value) if key in PARTS.values() else value for key, value in result.items()}
        return found | dict(rounds=[cut_round(result) for result in found["rounds"]])

    def entry(found: dict) -> dict:
        probes = [{key: value for key, value in probe.items() if not key.startswith("cores_")} for probe in found["probes"]]
        return found | {name: side(found[name]) for name in ("blyan", "theirs") if name in found} | dict(probes=probes)

    return {key: entry(found) for key, found in results.items()}


def both(entry: dict, metric: str) -> list[tuple[str | None, list[float], list[float]]]:
    """What blyan and the peer reached with the cores in the same place."""
    mine, theirs = places(entry["blyan"], metric), places(entry.get("theirs"), metric)
    known = [where for where in (None, "near", "apart") if where in mine or where in theirs]
    alone = "rounds" not in (entry.get("theirs") or {}) or "error" in entry["theirs"]
    return [(w, mine.get(w, []), theirs.get(w, [])) for w in known if alone or (w in mine and w in theirs)]


def has_places(machine: dict) -> bool:
    """Whether the time between cores tells how fast they read memory."""
    return "AMD" in machine.get("cpu", "")


def typical(result: dict, metric: str, machine: dict) -> float:
    """A figure of one run, with the cores near each other if they were: what variants are compared by."""
    near = places(dict(rounds=[result]), metric).get("near", []) if has_places(machine) else []
    return median(near) if len(near) > 2 else result[metric]


def best_read(results: dict, entry: dict, where: str | None = None, payloads: bool = False) -> float | None:
    """The fastest read of the probes taken around a figure, of whatever kind of memory or of the chain's payloads, in
    GB/s, with the cores in the same place. If they were not there then: that of all probes, and of payloads none."""
    reads = [key for key in PROBES if key.startswith("read_") and ("payloads" in key) == payloads]
    cores = lambda probe, key: where is None or place(*probe.get(key.replace("read_", "cores_"), (None, None))) == where
    most = lambda probes: max((p[key] for p in probes for key in reads if p.get(key) and cores(p, key)), default=None)
    others = [] if payloads else [probe for other in results.values() for probe in other["probes"]]
    return most(entry["probes"]) or most(others)


def like_for_like(entry: dict) -> list[str]:
    """Where memory's speed changes from moment to moment: the fastest token beside the fastest read, and the median token
    beside the median pass of whichever way of reading has the highest."""
    kinds = [key for key in PROBES if key.startswith("read_") and "payloads" not in key]
    of_all = lambda keys: [found for key in keys if (found := [p[key] for p in entry["probes"] if p.get(key)])]
    reads, passes = of_all(kinds), of_all(key.replace("read_", "median_") for key in kinds)
    side, lines = entry["blyan"], []
    token = decode_gb_per_s(side, max(values(side, "best_decode_tokens_per_s"), default=None))
    if reads and token:
        lines.append(f"the fastest token {number(token)} GB/s, {token / max(map(max, reads)):.2f} of it")
    token = decode_gb_per_s(side, median(values(side, "decode_tokens_per_s")))
    if passes and token:
        part = token / max(map(median, passes))
        lines.append(f"the median token {number(token)}, {part:.2f} of the median pass of the fastest way to read")
    return lines


def best(entry: dict, key: str) -> float | None:
    return max((p[key] for p in entry["probes"] if p.get(key)), default=None)


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def decode_gb_per_s(side: dict, tokens_per_s: float | None) -> float | None:
    """Weights and cache that decoding reads, times tokens."""
    for result in side.get("rounds", []):
        if "weight_bytes_a_token" in result and tokens_per_s:
            return (result["weight_bytes_a_token"] + result["kv_bytes_a_token"]) * tokens_per_s / 1e9
    return None


def prefill_gops(entry: dict, tokens_per_s: float | None) -> float | None:
    """Operations of the matrix products but the head's, which only the last token needs, a multiplication and an
    addition being two; attention is left out."""
    shape = SHAPES.get(entry["model"])
    if shape is None or tokens_per_s is None:
        return None
    return 2 * (shape.weights_per_token() - shape.vocab * shape.hidden) * tokens_per_s / 1e9


def peak_of(entry: dict) -> float | None:
    """The peak of the instructions that a product of the dtype can use, where the CPU has them."""
    if entry["dtype"] in ("int8", "int4"):
        if entry["dtype"] == "int8" and (tiles := best(entry, "tdpbssd_gops")):
            return tiles
        return best(entry, "vpdpbusd_gops") or best(entry, "vpmaddwd_gops")
    return best(entry, "fma_f32_avx512_gflops") or best(entry, "fma_f32_avx2_gflops")


def side_of(results: dict, model: str, case: str, dtype: str, peer: str = "") -> dict | None:
    """The entry of a case, of a pair with `peer` where one is named."""
    for entry in results.values():
        if (entry["model"], entry["case"], entry["dtype"]) == (model, case, dtype) and peer in ("", entry["peer"]):
            return entry
    return None


class Row:
    """One line of the targets: what was asked, what was reached."""

    def __init__(self, work: str, target: str):
        self.work, self.target, self.found = work, target, []

    def line(self) -> str:
        found = "; ".join(self.found) if self.found else "not measured"
        return f"| {self.work} | {self.target} | {found} |"


def compare(
    row: Row, entry: dict | None, metric: str, wanted: float, label: str = "", less: bool = False, read=None, most: float = 0.0
) -> None:
    """Adds the ratios of blyan to the peer, or why there is none. `read`: what part of the fastest read a rate is, with
    the cores in a place; `most`: what is wanted of it."""
    if entry is None:
        return
    found = both(entry, metric)
    if not found:
        errors = [(entry.get(side) or {}).get("error") for side in ("blyan", "theirs")]
        row.found.append(label + next((error for error in errors if error), "never with the cores in the same place"))
    for where, mine, theirs in found:
        mine, theirs = median(mine), median(theirs)
        name = label + (f"{where}, " if where else "")
        if mine is None or theirs is None:
            side, who = ("blyan", "blyan") if mine is None else ("theirs", entry["peer"])
            row.found.append(f"{name}{number(mine or theirs)}, {who}: {(entry.get(side) or {}).get('error', 'no figure')}")
            continue
        reached = mine / theirs
        met = reached <= wanted if less else reached >= wanted
        text = f"{number(mine)} against {number(theirs)}: {reached:.2f}×"
        part, of_payloads = read(where, mine) if read else (None, None)
        of = f"{part:.2f} of the read" if part else ""
        of = f" at **{of}**" if part and part < most else f" at {of}" if part else ""
        of += f", {of_payloads:.2f} of the payloads' own read" if part and of_payloads else ""
        row.found.append(name + (text if met else f"**{text}**") + of)


def share(row: Row, part: float | None, wanted: float, of: str, label: str = "") -> None:
    if part is not None:
        text = f"{part:.2f} of {of}"
        row.found.append(label + (text if part >= wanted else f"**{text}**"))


def targets(results: dict, model: str, placed: bool) -> list[str]:
    def entry(case: str, dtype: str, peer: str = "") -> dict | None:
        return side_of(results, model, case, dtype, peer)

    rows = []

    def row(work: str, target: str) -> Row:
        rows.append(Row(work, target))
        return rows[-1]

    def decoding(r: Row, found: dict | None, wanted: float, label: str = "", most: float = 0.0) -> None:
        def read(where: str | None, rate: float) -> tuple[float | None, float | None]:
            reached = decode_gb_per_s(found["blyan"], rate)
            fastest, of_payloads = (best_read(results, found, where, payloads) for payloads in (False, True))
            return ratio(reached, fastest), ratio(reached, of_payloads)

        compare(r, found, "decode_tokens_per_s", wanted, label, read=read, most=most)

    short = entry("short", "int8", "llama.cpp")
    r = row("INT8 decode, short context", "≥ 1.4× llama.cpp Q8_0 and ≥ 0.9 of the fastest read")
    decoding(r, short, 1.4, most=0.9)
    if short and not placed:
        r.found += like_for_like(short)
    r = row("INT8 decode at context 512 and 4096", "≥ 1.6× llama.cpp Q8_0")
    for case in ("ctx512", "ctx4096"):
        decoding(r, entry(case, "int8", "llama.cpp"), 1.6, f"{case[3:]}: ")
    r = row("INT8, 16 sequences decoding together", "≥ 2× llama.cpp Q8_0 in total tokens/s")
    compare(r, entry("batch16", "int8", "llama.cpp"), "batch_tokens_per_s", 2.0)
    r = row("INT8 prefill of 512 and of 4096", "≥ 1.2× torch bf16, ≥ 3.4× llama.cpp Q8_0")
    for case in ("ctx512", "ctx4096"):
        for peer, wanted in (("torch", 1.2), ("llama.cpp", 3.4)):
            compare(r, entry(case, "int8", peer), "prefill_tokens_per_s", wanted, f"{case[3:]}, {peer}: ")
    for metric, work, wanted, case in (
        ("decode_tokens_per_s", "decode", 1.25, "short"),
        ("prefill_tokens_per_s", "prefill of 512", 1.5, "ctx512"),
    ):
        r = row(f"F16 and BF16 {work}", f"≥ {wanted}× llama.cpp F16")
        for dtype in ("f16", "bf16"):
            if metric == "decode_tokens_per_s":
                decoding(r, entry(case, dtype, "llama.cpp"), wanted, f"{dtype}: ")
            else:
                compare(r, entry(case, dtype, "llama.cpp"), metric, wanted, f"{dtype}: ")
    r = row("FP8 decode", "≥ 0.9 of INT8's bytes/s")
    if fp8 := entry("short", "fp8", "blyan"):
        for where, mine, theirs in both(fp8, "decode_tokens_per_s"):
            a, b = (decode_gb_per_s(fp8[side], median(rates)) for side, rates in (("blyan", mine), ("theirs", theirs)))
            if a and b:
                share(r, a / b, 0.9, f"INT8's {number(b)} GB/s ({number(a)} GB/s)", f"{where}, " if where else "")
        named = (("FP8", fp8["blyan"]), ("INT8", fp8["theirs"]))
        r.found += [f"{dtype}: {found['error']}" for dtype, found in named if "error" in found]
    r = row("INT4 decode", "≥ 1.2× llama.cpp Q4_0")
    decoding(r, entry("short", "int4", "llama.cpp"), 1.2)
    r = row("open to first token, 16-token prompt, warm", "≤ 1.2× llama.cpp's verified, ≤ 1.0× without")
    for case, wanted, label in (("open", 1.2, "verified, s: "), ("open-trust", 1.0, "without, s: ")):
        compare(r, entry(case, "int8", "llama.cpp"), "first_token_s", wanted, label, less=True)
    r = row("first open with full verification", "≥ 0.9 of plain multi-threaded BLAKE3")
    if verify := entry("verify", "int8"):
        opened, plain = (median(values(verify["blyan"], f"{key}_gb_per_s")) for key in ("first_open", "blake3"))
        share(r, ratio(opened, plain), 0.9, f"BLAKE3's {number(plain)} GB/s")
        if "error" in verify["blyan"]:
            r.found.append(verify["blyan"]["error"])
    r = row("peak RSS", "≤ touched blocks + KV + 5% + 64 MiB")
    for case in ("short", "ctx4096"):
        found = entry(case, "int8", "llama.cpp")
        for measured in (found or {}).get("blyan", {}).get("rounds", [])[:1]:
            allowed = (measured["touched_bytes"] + measured["kv_bytes"]) * 1.05 + (64 << 20)
            peak = measured["memory"]["peak_bytes"]
            text = f"{case}: {peak / 1e6:.0f} of {allowed / 1e6:.0f} MB"
            r.found.append(text if peak <= allowed else f"**{text}**")
    r = row("small models: decode", "≥ 1.2× llama.cpp")
    for small in ("tiny-kjv-moe", "smollm2"):
        for dtype in ("bf16", "int8"):
            compare(r, side_of(results, small, "short", dtype), "decode_tokens_per_s", 1.2, f"{small} {dtype}: ")
    return ["| work | target | reached |", "|---|---|---|", *(r.line() for r in rows)]


def figures(results: dict, model: str) -> list[str]:
    lines = [
        "| case | blyan | peer | | cores | blyan | peer | ratio | reads or computes | of the limit | commit |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for entry in in_plan_order(results, model):
        for metric, what in (
            ("prefill_tokens_per_s", "prefill tok/s"),
            ("decode_tokens_per_s", "decode tok/s"),
            ("batch_tokens_per_s", "decode tok/s"),
            ("first_token_s", "s, less is better"),
        ):
            if metric.startswith("prefill") and entry["case"] == "short":
                continue
            for where, mine, theirs in both(entry, metric):
                load, limit = "", ""
                if metric == "decode_tokens_per_s" and (rate := decode_gb_per_s(entry["blyan"], median(mine))):
                    load, most = f"{number(rate)} GB/s", best_read(results, entry, where)
                    limit = f"{rate / most:.2f} of {number(most)}" if most else ""
                    payloads = best_read(results, entry, where, payloads=True)
                    limit += f"; {rate / payloads:.2f} of {number(payloads)}" if limit and payloads else ""
                if metric == "prefill_tokens_per_s" and (rate := prefill_gops(entry, median(mine))):
                    load, peak = f"{number(rate)} GOP/s", peak_of(entry)
                    limit = f"{rate / peak:.2f} of {number(peak)}" if peak else ""
                times = ratio(median(mine), median(theirs))
                rounds = (entry.get("theirs") or {}).get("rounds", [])
                variant = next((e["variant"] for e in rounds if e.get("variant")), "")
                peer = f"{entry['peer']} {entry['peer_type']}" + (f" `{variant}`" if variant else "")
                lines.append(
                    f"| {entry['case']} | {entry['dtype']} | {peer} | {what} | {where or ''} | {spread(mine)} | {spread(theirs)} "
                    f"| {number(times) + '×' if times else '–'} | {load} | {limit} | {entry['commit']} |"
                )
    return lines if len(lines) > 2 else []


def in_plan_order(results: dict, model: str) -> list[dict]:
    pairs = [(pair.dtype, pair.peer, pair.peer_type) for pair in MODELS[model].pairs]
    order = list(CASES)
    entries = [entry for entry in results.values() if entry["model"] == model and entry["case"] in CASES]
    key = lambda entry: (entry["dtype"], entry["peer"], entry["peer_type"])
    known = [entry for entry in entries if key(entry) in pairs]
    return sorted(known, key=lambda entry: (pairs.index(key(entry)), order.index(entry["case"])))


def refusals(results: dict, model: str) -> list[str]:
    """What could not be run, each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in in_plan_order(results, model):
        for side in ("blyan", "theirs"):
            if error := (entry.get(side) or {}).get("error"):
                who = f"blyan {entry['dtype']}" if side == "blyan" else f"{entry['peer']} {entry['peer_type']}"
                cases = reasons.setdefault((who, error), [])
                if entry["case"] not in cases:
                    cases.append(entry["case"])
    return [f"- {who}, {', '.join(cases)}: {error}" for (who, error), cases in reasons.items()]


def compare_logits(entry: dict) -> None:
    """Puts how far both sides' logits agree in their place, which would be most of what is stored."""
    mine, theirs = values(entry["blyan"], "logits"), values(entry.get("theirs"), "logits")
    if mine and theirs:
        a, b = mine[0], theirs[0]
        mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
        product = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
        size = (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5
        entry["agreement"] = dict(correlation=product / size, same_token=a.index(max(a)) == b.index(max(b)))
    for side in ("blyan", "theirs"):
        for measured in entry.get(side, {}).get("rounds", []):
            measured.pop("logits", None)


def agreement(results: dict, model: str) -> list[str]:
    lines = []
    for entry in in_plan_order(results, model):
        if agreed := entry.get("agreement"):
            same = "the same" if agreed["same_token"] else "another"
            lines.append(
                f"- {model}: {entry['dtype']} and {entry['peer']} {entry['peer_type']} correlate by "
                f"{agreed['correlation']:.5f}, {same} token is the likeliest"
            )
    return lines


def memory(results: dict, model: str) -> list[str]:
    lines = ["| case | blyan | peer | blyan peak | touched blocks | KV | peer's peak |", "|---|---|---|---:|---:|---:|---:|"]
    megabytes = lambda value: f"{value / 1e6:.0f} MB" if value else "–"
    for entry in in_plan_order(results, model):
        mine = entry["blyan"].get("rounds", [])
        theirs = (entry.get("theirs") or {}).get("rounds", [])
        if entry["case"] not in ("short", "ctx4096", "open") or not mine:
            continue
        peak = lambda rounds: max((e["memory"].get("peak_bytes") or 0 for e in rounds), default=0)
        lines.append(
            f"| {entry['case']} | {entry['dtype']} | {entry['peer']} {entry['peer_type']} | {megabytes(peak(mine))} "
            f"| {megabytes(mine[0].get('touched_bytes'))} | {megabytes(mine[0].get('kv_bytes'))} | {megabytes(peak(theirs))} |"
        )
    return lines if len(lines) > 2 else []


PROBES = {
    "read_anonymous": "read, anonymous memory, GB/s",
    "read_anonymous_prefetch": "the same with software prefetch",
    "read_anonymous_near": "the same with software prefetch near by",
    "read_anonymous_twice": "the same asked for twice, of memory for the second-level cache and of that for the first",
    "read_anonymous_two_runs": "the same as two runs side by side, with software prefetch",
    "read_anonymous_huge": "read, anonymous memory in huge pages",
    "read_anonymous_huge_prefetch": "the same with software prefetch",
    "read_anonymous_huge_near": "the same with software prefetch near by",
    "read_anonymous_huge_twice": "the same asked for twice, of memory for the second-level cache and of that for the first",
    "read_anonymous_huge_two_runs": "the same as two runs side by side, with software prefetch",
    "read_file": "read, mapped file, warm",
    "read_file_prefetch": "the same with software prefetch",
    "read_file_near": "the same with software prefetch near by",
    "read_file_twice": "the same asked for twice, of memory for the second-level cache and of that for the first",
    "read_file_two_runs": "the same as two runs side by side, with software prefetch",
    "read_file_huge": "read, mapped file, `MADV_HUGEPAGE`, warm",
    "read_file_huge_prefetch": "the same with software prefetch",
    "read_file_huge_near": "the same with software prefetch near by",
    "read_file_huge_twice": "the same asked for twice, of memory for the second-level cache and of that for the first",
    "read_file_huge_two_runs": "the same as two runs side by side, with software prefetch",
    "read_payloads": "read, the chain's payloads (6 GiB at most), `MADV_HUGEPAGE`, warm",
    "read_payloads_prefetch": "the same with software prefetch",
    "read_payloads_near": "the same with software prefetch near by",
    "read_payloads_twice": "the same asked for twice, of memory for the second-level cache and of that for the first",
    "read_payloads_two_runs": "the same as two runs side by side, with software prefetch",
    "fma_f32_avx512_gflops": "FMA, f32, AVX-512, GFLOP/s",
    "fma_f32_avx2_gflops": "FMA, f32, AVX2, GFLOP/s",
    "vpmaddwd_gops": "int16 dot, `vpmaddwd`, AVX2, GOP/s",
    "vpdpbusd_gops": "int8 dot, `vpdpbusd`, GOP/s",
    "vpdpwssd_gops": "int16 dot, `vpdpwssd`, GOP/s",
    "tdpbssd_gops": "int8 tiles, `tdpbssd`, GOP/s",
    "vdpbf16ps_gflops": "bf16 dot, `vdpbf16ps`, GFLOP/s",
    "blake3_one_thread": "BLAKE3, one thread, GB/s",
    "blake3_one_input": "BLAKE3, all threads on one input",
    "blake3_many_inputs": "BLAKE3, all threads, each on its own inputs",
}


def probes(results: dict) -> list[str]:
    all_of_them = [probe for entry in results.values() for probe in entry["probes"] if probe]
    # The short mode stores one with each of some cases.
    taken = list({str(probe): probe for probe in all_of_them}.values())
    lines = ["| limit | cores | median | least | most |", "|---|---|---:|---:|---:|"]
    for key, what in PROBES.items():
        found: dict[str | None, list[float]] = {}
        for probe in taken:
            if probe.get(key):
                where = place(*probe.get(key.replace("read_", "cores_"), (None, None))) if "read_" in key else None
                found.setdefault(where, []).append(probe[key])
        for where in (None, "near", "apart"):
            if rates := found.get(where):
                shown = " | ".join(number(value) for value in (median(rates), min(rates), max(rates)))
                lines.append(f"| {what} | {where or ''} | {shown} |")
        if not found and any(key in probe for probe in taken):
            lines.append(f"| {what} | | not to be had here | | |")
    distances = [ns for probe in taken for key in probe if key.startswith("cores_") for ns in probe[key] if ns]
    shared = len(taken) < len(all_of_them)
    when = "once for the cases of a dtype" if shared else "before, between and after the rounds of every case"
    lines += ["", f"{len(taken)} probes, taken {when}."]
    if distances:
        apart = sum(ns >= NEAR_NS for ns in distances) / len(distances)
        near, far = ([ns for ns in distances if (ns >= NEAR_NS) == wanted] for wanted in (False, True))
        shown = lambda found: f"{number(min(found))} to {number(max(found))} ns" if found else "never seen"
        lines[-1] += (
            f" A cache line went from core to core in {shown(near)} (near) or {shown(far)} (apart, {apart:.0%} of the time)."
        )
    return lines


def noise(results: dict) -> list[str]:
    """Whether something else ran when a case began."""
    busy = sorted(entry.get("busy", 0.0) for entry in results.values())
    if not busy:
        return []
    disturbed = [share for share in busy if share > 0.1]
    if not disturbed:
        return [f"| beside it | next to nothing: at most {busy[-1]:.0%} of the CPU was busy when a case began |"]
    return [
        f"| beside it | **other programs: {len(disturbed)} of {len(busy)} cases began with up to {busy[-1]:.0%} of the "
        "CPU busy, so the figures are no measurement** |"
    ]


def wrapped(line: str) -> str:
    """Prose as the other pages have it; tables and code stay as they are."""
    if line.startswith(("|", "$", "#", "`")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def page(stored: dict) -> str:
    results, machine, versions = stored.get("results", {}), stored.get("machine", {}), stored.get("versions", {})
    placed = has_places(machine)
    if not placed:
        results = without_places(results)
    model = "olmoe" if any(entry["model"] == "olmoe" for entry in results.values()) else "small"
    times = sorted(entry["time"] for entry in results.values())
    lines = ["## Beside its peers", ""]
    cases = CASES.values()
    if stored.get("short"):
        cases = [case.once() for case in cases]
        lines += [
            "The short mode: each case once, with the machine's limits as they were before the first case of a dtype, and "
            f"with torch no {' nor '.join(SLOW_WITH_TORCH)}.",
            "",
        ]
    lines += [
        "Synthetic models with random weights in real shapes, blyan and each peer in turns, every case in a process of "
        "its own and pinned to as many cores as it has threads; medians, with their spread behind them. Each "
        "figure stands beside the limits that were probed around it. Bold: a target that was missed.",
        "",
    ]
    if placed:
        lines += [
            "A host moves a guest's cores about. Two on one die share its link to memory, two on different dies have a "
            "link each, which is twice as fast. So decoding is timed a few tokens at a time, with the time that a cache line "
            "takes from one core to the other before and after, and compared with the cores in the same place: *near*, or "
            "*apart*. What was timed while they moved is left out.",
            "",
        ]
    lines += [
        "```console",
        "$ python3 benches/peers/run.py --short    # the small shape, each case once",
        "$ python3 benches/peers/run.py --full     # all of it, several turns",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| CPU | {machine.get('cpu')}, {machine.get('cores')} cores, {', '.join(machine.get('flags', []))} |",
        f"| memory | {machine.get('memory_gib')} GiB |",
        f"| system | {machine.get('system')} |",
        f"| threads | {machine.get('threads')}, for blyan and every peer |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))} |",
        f"| measured | {times[0]} to {times[-1]} |" if times else "| measured | nothing yet |",
        *noise(results),
        "",
        "### Targets",
        "",
        f"In the shape `{model}`"
        + ("." if model == "olmoe" else ", which is small: the targets are meant for `olmoe`, which was not run."),
        "",
        *targets(results, model, placed),
    ]
    for name, known in MODELS.items():
        table = figures(results, name)
        missing = refusals(results, name)
        if not table and not missing:
            continue
        lines += ["", f"### {name}", ""]
        if shape := known.shape:
            lines += [
                f"{shape.layers} layers, hidden {shape.hidden}, {shape.heads} heads, {shape.experts} experts, "
                f"top-{shape.experts_per_token}, expert {shape.expert_width}, vocabulary {shape.vocab}; positions up to "
                f"{shape.context}, so that there is room after a prompt of 4096.",
                "",
            ]
        lines += table
        if missing:
            lines += ["", "Not run:", "", *missing]
        if table := memory(results, name):
            lines += ["", "Peak resident memory, maps of files included:", "", *table]
    lines += ["", "### Limits", "", *probes(results)]
    if agreed := [line for name in MODELS for line in agreement(results, name)]:
        lines += ["", "### The same models", "", "Logits after the same 16 tokens:", "", *agreed]
    lines += [
        "",
        "### How to read it",
        "",
        *(f"- `{case.name}`: {case.what}; `{' '.join(case.words)}`" for case in cases),
        "- Behind a median: the least and the most of up to seven figures, of more what half of them lie between.",
        "- Decoding: bytes are those of the blocks that one token is computed with, with all of the keys and values "
        "before it, times tokens a second; the limit is the fastest read of any kind that the probes around the figure "
        f"found{' with the cores in the same place' if placed else ''}. Behind it, where it was measured, the same of the "
        "fastest read of the chain's own payloads: what a model of many GB can be read at, one GiB again and again need not show.",
        "- Prefill: operations are those of the matrix products without the head and without attention; the limit is "
        "`vpdpbusd` for int8 and int4, `vpmaddwd` on a CPU without it, `tdpbssd` for int8 on one with AMX, an f32 FMA for floats.",
        "- Every model is warmed up by 512 tokens first; blyan by three times as many at most, until no new block is touched. A peer's open "
        "starts at its library's load call, as blyan's starts at `Chain::open_read_only`: not at the process's start.",
        "- 16 sequences: blyan's time is that of `generate_batch` less that of the same call for one token; the others "
        "are timed from the end of their prefill.",
        "- llama.cpp's files have norms and routers in F32 and every other tensor in the named type, the head and the "
        "embedding included. Flash attention on and off were both tried, as with torch the implementations of routed "
        "experts: each figure is that of the best variant. torch makes its own random weights.",
    ]
    return "\n".join(map(wrapped, lines)) + "\n"


def around(docs: Path) -> tuple[str, str]:
    """What a page has before and after the markers; a new page has nothing."""
    text = docs.read_text() if docs.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{docs} lacks the markers {BEGIN} and {END}")
    return before, after


def write(stored: dict, docs: Path) -> None:
    """Replaces what is between the markers and nothing else."""
    before, after = around(docs)
    docs.write_text(f"{before}{BEGIN}\n{page(stored)}{END}{after}")
