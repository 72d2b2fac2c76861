"""A trained reward model as a reward: token ids of prompt and answer in, scalars out."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import checkpoint, sharding
from llm_jax.config import UserError
from llm_jax.files import user_path
from llm_jax.model import scalar_head, transformer
from llm_jax.runs import Run
from llm_jax.stage_table import STAGES
from llm_jax.tokenizer import path_in

ROWS = 32  # scored at a time, at least
SHORTEST = 32  # sequences are padded to this, or to twice, four times, ... as much: few shapes


def located(run: Run, source: str) -> tuple[Run, str]:
    """(the run of a reward model, its stage): stage `reward` of this run, or of another one, "WORKDIR:stage".

    Raises UserError when there is none, or its tokenizer is another than the run's: it would read other text.
    """
    workdir, _, stage = source.rpartition(":")
    if source and not workdir:
        raise UserError(f"the reward model is {source!r}; it must be WORKDIR:stage, as in runs/taste:reward")
    theirs, stage = Run.open(user_path(workdir, "the reward model")) if workdir else run, stage or "reward"
    if STAGES.find(stage).kind != "reward":
        raise UserError(f"stage {stage!r} of {theirs.workdir} is no reward model; name one, as in 'reward'")
    checkpoint.existing(theirs.workdir, stage).close()
    own = path_in(run.workdir / "data")
    if own.exists() and theirs.tokenizer_sha256 != run.tokenizer_sha256:
        what = f"the reward model {source} reads with another tokenizer than {run.workdir}"
        raise UserError(f"{what}; train one on a run that shares it (init_from)")
    return theirs, stage


class RewardModel:
    """That of a source, as `located` finds it."""

    def __init__(self, run: Run, source: str = ""):
        self.run, stage = located(run, source)
        self.params = self.run.load_params(stage)
        self.length, model, vocab_size = self.run.config.data.sequence_length, self.run.model, self.run.vocab_size
        self.rows = ROWS * sharding.shards(self.run.mesh, "batch")

        @jax.jit
        def rewards(params, tokens_BT, sizes_B):
            of_model, head = scalar_head.parted(params)
            places_BT = jax.lax.broadcasted_iota(jnp.int32, tokens_BT.shape, 1)
            segments_BT = (places_BT < sizes_B[:, None]).astype(jnp.int32)
            hidden_BTD, *_ = transformer.apply(model, vocab_size, of_model, tokens_BT, places_BT, segments_BT)
            scalars_BT = scalar_head.scalars_BT(head[scalar_head.NAME], hidden_BTD)
            return jnp.take_along_axis(scalars_BT, sizes_B[:, None] - 1, axis=1)[:, 0]

        self._rewards = rewards

    def score(self, sequences: list[list[int]]) -> np.ndarray:
        """The reward of each prompt and answer, read at its last id -> float32 [N]. None is empty.

        Raises UserError for one that is longer than the reward model's rows.
        """
        longest = max(map(len, sequences), default=0)
        if longest > self.length:
            raise UserError(f"the reward model reads {self.length} tokens, and an answer with its prompt has {longest}")
        out = np.zeros(len(sequences), np.float32)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        place = sharding.named(self.run.mesh, "batch")
        for at in range(0, len(order), self.rows):
            chosen = order[at : at + self.rows]
            width = min(self.length, SHORTEST)
            while width < len(sequences[chosen[-1]]):
                width = min(self.length, 2 * width)
            tokens, sizes = np.zeros((self.rows, width), np.int32), np.ones(self.rows, np.int32)
            for row, i in enumerate(chosen):
                tokens[row, : len(sequences[i])], sizes[row] = sequences[i], len(sequences[i])
            with jax.set_mesh(self.run.mesh):
                found = self._rewards(self.params, *jax.device_put((tokens, sizes), place))
            out[chosen] = jax.device_get(found)[: len(chosen)]
        return out
