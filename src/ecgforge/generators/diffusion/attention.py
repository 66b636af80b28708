"""Self-attention over the positions of a hidden state."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = 8  # of channels in group normalisation


class Attention(nn.Module):
    """Self-attention over all positions, with a skip."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.inputs = nn.Conv1d(channels, 3 * channels, 1)
        self.output = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.output.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, channels, positions = hidden.shape
        split = (
            self.inputs(self.norm(hidden))
            .reshape(batch, 3, self.heads, channels // self.heads, positions)
            .transpose(-1, -2)
        )
        mixed = nn.functional.scaled_dot_product_attention(*split.unbind(1))
        return hidden + self.output(mixed.transpose(-1, -2).reshape(batch, channels, positions))
