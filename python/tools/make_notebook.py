"""Writes examples/notebook/blyan.ipynb: the cells below, executed.

    python python/tools/make_notebook.py
"""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook" / "blyan.ipynb"

CELLS = [
    (
        "markdown",
        """# A mixture of experts, block by block

Blyan keeps a model as content-addressed blocks, one expert per block, and runs it from those blocks alone.
This notebook imports the small model of the repository (4 layers of 8 experts, trained on the King James
Bible), looks at its blocks, writes text, shows which experts worked, and checks a receipt.

`pip install . matplotlib` in the repository's root is all it needs.""",
    ),
    (
        "code",
        """from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import blyan

MODEL = Path("../../models/tiny-kjv-moe")""",
    ),
    (
        "markdown",
        """## Import

A chain is a directory: `blyan.Chain("data")`. This one is in memory, so that nothing stays behind. What
`import_checkpoint` returns is the model block: its hash names the whole model, on every machine.""",
    ),
    (
        "code",
        """chain = blyan.Chain.in_memory()
meta = blyan.import_checkpoint(chain, MODEL)
meta""",
    ),
    ("code", "chain"),
    (
        "markdown",
        """## Blocks

Every part of the model is a block of its own. A block is named by the BLAKE3 hash of its header, which
names the payload's hash: no byte of a weight is used before that hash was checked.""",
    ),
    (
        "code",
        """from collections import Counter

for (lane, kind), count in sorted(Counter((block.lane, block.kind) for block in chain).items()):
    print(f"{lane} {kind:18} {count:3}")

report = chain.verify(full=True)
print(f"\\n{report.blocks} blocks and {report.payload_bytes:,} bytes of payloads verified, bad: {report.bad}")""",
    ),
    (
        "code",
        """expert = chain.heads("layer0.expert1")[0]
expert""",
    ),
    (
        "markdown",
        """## Generate

Greedy unless asked otherwise. The same blocks, prompt and options give the same bits everywhere, so this
text is the same on your machine.""",
    ),
    (
        "code",
        """model = blyan.MoEModelManager(chain)
generation = model.generate("And God said", max_tokens=60, temperature=0.8, seed=3)
generation""",
    ),
    (
        "code",
        """for piece in model.stream("In the beginning", max_tokens=24):
    print(piece.text, end="")""",
    ),
    (
        "markdown",
        """## Which experts worked

The router sends each token to two of the eight experts of each layer. The heat map shows how much of the
routing weight of a layer each expert got: layers × experts.""",
    ),
    (
        "code",
        """usage = model.usage
share = np.zeros((max(e.layer for e in usage.values()) + 1, max(e.expert for e in usage.values()) + 1))
for e in usage.values():
    share[e.layer, e.expert] = e.weight_share

figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
image = axes.imshow(100 * share, cmap="viridis", vmin=0)
axes.set(xlabel="expert", ylabel="layer", xticks=range(share.shape[1]), yticks=range(share.shape[0]))
axes.set_title("share of the routing weight, %")
for (layer, number), value in np.ndenumerate(share):
    axes.text(number, layer, f"{100 * value:.0f}", ha="center", va="center", color="white", fontsize=8)
figure.colorbar(image)
plt.show()""",
    ),
    (
        "code",
        """for e in usage.top(3):
    print(e.slot, e.tokens, "tokens, block", e.block.short)""",
    ),
    (
        "markdown",
        """## Check what was run

A receipt says what was run: model, blocks, tokens in and out, options, a digest of the logits. Anybody who
has the blocks can run it again. One that was edited does not replay.""",
    ),
    ("code", "generation.receipt"),
    ("code", "blyan.replay(chain, generation.receipt)"),
    (
        "code",
        """import json

edited = json.loads(generation.receipt.to_json())
edited["claim"]["options"]["seed"] = 4
try:
    blyan.replay(chain, blyan.Receipt.from_json(json.dumps(edited)))
except blyan.exceptions.ReplayError as error:
    for difference in error.differences[:2]:
        print(difference)""",
    ),
    (
        "markdown",
        """## One expert in numpy

A tensor is a read-only view of the block's payload: numpy shares its memory. numpy has no bf16, so the
view appears as raw uint16; the upper half of a float32 is what those 16 bits are.""",
    ),
    (
        "code",
        """weights = {name: np.asarray(view) for name, view in expert.tensors.items()}
for name, array in weights.items():
    print(f"{name:18} {expert.tensors[name].dtype} {array.dtype} {array.shape} writeable={array.flags.writeable}")

def f32(raw):
    return (raw.astype(np.uint32) << 16).view(np.float32)

gate, up, down = (f32(weights[f"{part}_proj.weight"]) for part in ("gate", "up", "down"))
assert (gate == expert.tensors["gate_proj.weight"].to_f32()).all()""",
    ),
    (
        "code",
        """def run_expert(x):
    \"\"\"down(silu(gate x) * up x), as the model's feed-forward does.\"\"\"
    g = gate @ x
    return down @ (g / (1 + np.exp(-g)) * (up @ x))

x = np.ones(gate.shape[1], np.float32)
y = run_expert(x)
print(y.shape, np.round(y[:4], 3))""",
    ),
]


def main() -> None:
    notebook = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for index, (kind, source) in enumerate(CELLS):
        new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        cell = new(source)
        cell["id"] = f"cell-{index}"
        notebook.cells.append(cell)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)
        if cell.cell_type == "code":  # progress bars are of one machine and one moment
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    NOTEBOOK.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
