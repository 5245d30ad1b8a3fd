"""What a backward pass may find saved, by name; without jax, so that recipes can name it."""

from __future__ import annotations

# Our word and that of `jax.checkpoint_policies`.
SAVES = {
    "nothing": "nothing_saveable",
    "dots": "dots_saveable",
    "dots_without_batch": "dots_with_no_batch_dims_saveable",
    "everything": "everything_saveable",
}
# And what has a name: the codes of operands in few bits.
WORDS = (*SAVES, "codes")
