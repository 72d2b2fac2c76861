"""Which rates the stages on rows learn at."""

import jax
import numpy as np
import pytest

from llm_jax import rows
from llm_jax.stages.supervised import supervised_job
from llm_jax.training import loader


@pytest.mark.parametrize(
    ("stage", "section", "share"), [("pretrain", "", 1.0), ("sft", "", 0.1), ("control", "abstain", 0.1)]
)
def test_tables_learn_at_a_tenth_after_pre_training(context, tmp_path, draw_params, stage, section, share):
    ones = np.ones((8, 17), int)
    rows.write_shard(tmp_path / "rows/a/00000.array_record", np.stack([ones] * 4, 1), {"targets": 128, "bytes": 1})
    (tmp_path / "none").mkdir()
    job = supervised_job(context, stage, loader.mixture(tmp_path / "rows"), tmp_path / "none", section=section)
    params, grads = (draw_params(context.model, context.vocab_size, seed) for seed in (0, 1))
    update, _ = jax.jit(job.optimizer.update)(grads, job.optimizer.init(params), params)
    # AdamW's first step has the size of its rate, whatever the gradient's.
    of_norm = np.abs(update["norm"]["scale"]).mean()
    for table in ("embedding", "head"):
        np.testing.assert_allclose(np.abs(update[table]).mean(), share * of_norm, rtol=1e-2, err_msg=table)
