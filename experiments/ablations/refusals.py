"""Does a model learn that it does not know, or merely to be shy?

Question    One base and one assistant, four ways to teach "I do not know": where its own probing finds it wrong; as
            many refusals to random questions; where the pages say little (the oracle); not at all.
Prediction  The probe refuses what is unknown and keeps what is known; random refusals lower both alike, so that F and
            AUROC stay behind; the oracle is no better than the probe, for exposure only guesses at what was learned.
Command     python -m llm_jax.main --config=experiments/ablations/refusals.py:oracle,runs/speedrun
            --workdir=runs/refusals_oracle --stages=data,abstain,evaluate,report
            python -m llm_jax.compare runs/speedrun runs/refusals_oracle
Arms        probe, random, oracle; what no training does stands beside them: NAME_before, and `threshold`, which refuses
            at inference what the untaught model is least sure of, as often as the taught one.
"""

from experiments import speedrun


def get_config(arm_and_base="random,runs/speedrun"):
    arm, _, base = arm_and_base.partition(",")
    c = speedrun.get_config()
    c.init_from = f"{base or 'runs/speedrun'}:sft"
    c.abstain.arm, c.control.arm = arm, "none"
    return c
