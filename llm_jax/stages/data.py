"""Stage `data`: whatever `data.prepare` names, from raw material to rows; the only tie to `data_pipelines`.

The files that it was made of are noted, so that a later command can tell that they are others now. A module that has a
`check(config)` beside its preparation is asked before anything is written.
"""

import hashlib
import json
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.files import matching, read_json, replace
from llm_jax.runs import Run
from llm_jax.tables import function

INPUTS = ("documents", "conversations")  # keys of the section `data` that are globs of the user's own files


def inputs(config: ConfigDict) -> dict[str, dict[str, str]]:
    """{key: {file: hash of what is in it}} of the files that the config names."""
    named = {key: config.data[key] for key in INPUTS if config.data[key]}
    return {key: {str(path): content(path) for path in matching(pattern)} for key, pattern in named.items()}


def content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when there is nothing to make rows of, or what they were made of is not what is there now."""
    made = run.workdir / "data" / "prepared.json"
    now = inputs(run.config)
    if not made.exists():
        if missing := [key for key in now if not now[key]]:
            raise UserError(f"no file matches data.{missing[0]}={run.config.data[missing[0]]!r}; give a glob of files")
        try:
            module = sys.modules[function(run.config.data.prepare).__module__]
        except UserError as error:
            raise UserError(f"data.prepare is {error}") from error
        getattr(module, "check", lambda config: None)(run.config)
        return
    noted = made.with_name("inputs.json")
    before = read_json(noted) if noted.exists() else {}
    for key, files in now.items():
        if not files:
            what = f"no file of data.{key} is here any more; what was made of them is used"
            print(f"warning: {what}", file=sys.stderr, flush=True)
        elif changed := [difference(files, before[key])] if key in before and before[key] != files else []:
            mend = f"move {made.parent} away to have the stage done again, or use another --workdir"
            raise UserError(f"the files of data.{key} are others than stage 'data' has read ({changed[0]}); {mend}")


def difference(now: dict[str, str], before: dict[str, str]) -> str:
    """The first file that is new, gone or changed, and how many more there are."""
    said = [f"{name} is {'new' if name not in before else 'gone' if name not in now else 'changed'}"
            for name in sorted(now | before) if now.get(name) != before.get(name)]  # fmt: skip
    return said[0] + (f", and {len(said) - 1} more" if said[1:] else "")


def prepare(run: Run) -> None:
    folder = run.workdir / "data"
    if not (folder / "prepared.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "inputs.json", json.dumps(inputs(run.config), indent=1))
    function(run.config.data.prepare)(run.config, run.workdir)
