"""Owns the shapes of the synthetic models. Plain Python: both the entry and the tools in the venv read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder in which every layer routes, of the architecture `olmoe`."""

    layers: int
    hidden: int
    heads: int
    experts: int
    experts_per_token: int
    expert_width: int
    vocab: int
    # Above OLMoE-1B-7B's 4096, so that tokens can be written after a prompt of 4096.
    context: int = 8192

    def expert_weights(self) -> int:
        return 3 * self.hidden * self.expert_width

    def weights_per_token(self) -> int:
        """Weights that the matrix products of one token read: projections, routed experts, router, head."""
        layer = 4 * self.hidden**2 + self.experts * self.hidden + self.experts_per_token * self.expert_weights()
        return self.layers * layer + self.vocab * self.hidden


SHAPES = {
    # OLMoE-1B-7B (arXiv 2409.02060).
    "olmoe": Shape(layers=16, hidden=2048, heads=16, experts=64, experts_per_token=8, expert_width=1024, vocab=50304),
    # A third of it, for what happens to a checkpoint's bytes: 4 GiB.
    "import": Shape(layers=5, hidden=2048, heads=16, experts=64, experts_per_token=8, expert_width=1024, vocab=50304),
    "small": Shape(layers=4, hidden=1024, heads=8, experts=32, experts_per_token=4, expert_width=512, vocab=32000),
}
SEED = 20240902
STD = 0.02
RMS_NORM_EPS = 1e-5
ROPE_THETA = 10000.0
