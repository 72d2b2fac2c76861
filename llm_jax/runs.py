"""A run: what a workdir holds, opened once. What every command needs of it, and nothing of how it is trained."""

import dataclasses
import functools
import json
import shlex
import zlib
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from llm_jax import checkpoint, sharding
from llm_jax.config import OPEN, UserError, default, flatten
from llm_jax.files import read_json, replace, user_path
from llm_jax.model import lora, scalar_head, transformer
from llm_jax.model.attention import kernel_for
from llm_jax.stage_table import STAGES, identity, trained, writing
from llm_jax.tables import extend, known
from llm_jax.tokenizer import Tokenizer, path_in

OWN = "."  # the run of a parent that lies in the same workdir
STAGE_HELP = "Whose newest checkpoint; that of the newest stage if not given."  # of the flag --stage


@dataclasses.dataclass
class Run:
    """Config, workdir, mesh, tokenizer, and the parameters of each stage, placed on the mesh."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    planned_vocab_size: int = 0  # of a run without a tokenizer: one that is only compiled, or times a step
    profile: bool = False  # trace five steps of each stage

    @classmethod
    def open(cls, workdir: Path) -> "Run":
        """A run to be read, on the devices at hand. Raises UserError when the folder is no run."""
        config = load_config(workdir)
        mesh = reader_mesh(config.model, jax.devices())
        config.model.attention = "auto"  # these devices may not have the kernel that it was trained with
        return cls(config, Path(workdir), mesh)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises UserError before stage `data` has made it."""
        return Tokenizer.load(path_in(self.workdir / "data"))

    @property
    def vocab_size(self) -> int:
        return self.planned_vocab_size or self.tokenizer.vocab_size

    @property
    def tokenizer_sha256(self) -> str:
        return "" if self.planned_vocab_size else self.tokenizer.sha256

    @functools.cached_property
    def model(self) -> ConfigDict:
        """The model's config, its attention kernel chosen for the mesh's devices. Raises UserError as `kernel_for`."""
        model = self.config.model.copy_and_resolve_references()
        length = self.config.data.sequence_length // sharding.shards(self.mesh, "length")
        model.attention = kernel_for(self.mesh.devices.flat[0].platform, model, length)
        return model

    def axes(self):
        """The logical axes of every parameter."""
        return transformer.param_axes(self.model, self.vocab_size)

    def shardings(self):
        """A NamedSharding for every parameter, from the rules table."""
        return sharding.named_tree(self.mesh, self.axes())

    def abstract_params(self):
        init = lambda: transformer.init_params(self.model, self.vocab_size, jax.random.key(0))  # noqa: E731
        return checkpoint.abstract_like(jax.eval_shape(init), self.shardings())

    def init_params(self):
        """Fresh parameters, created on their shards."""
        init = lambda key: transformer.init_params(self.model, self.vocab_size, key)  # noqa: E731
        options = sharding.compiler_options(self.mesh)
        return jax.jit(init, out_shardings=self.shardings(), compiler_options=options)(jax.random.key(self.config.seed))

    def abstract_adapter(self, values: ConfigDict):
        """Shapes and shardings of an adapter, by the values of a section `lora`."""
        axes = lora.adapter_axes(self.axes(), tuple(values.projections))
        made = jax.eval_shape(
            functools.partial(lora.init, self.axes(), self.abstract_params(), values), jax.random.key(0)
        )
        return checkpoint.abstract_like(made, sharding.named_tree(self.mesh, axes))

    def init_adapter(self, stage: str):
        """A fresh adapter of the config's `lora`, created on its shards."""
        values, key = self.config.lora, jax.random.fold_in(jax.random.key(self.config.seed), zlib.crc32(stage.encode()))
        places = jax.tree.map(lambda x: x.sharding, self.abstract_adapter(values))
        init = functools.partial(lora.init, self.axes(), self.abstract_params(), values)
        return jax.jit(init, out_shardings=places, compiler_options=sharding.compiler_options(self.mesh))(key)

    def init_head(self) -> dict:
        """A fresh scalar head, as it stands beside parameters or an adapter."""
        make = lambda: scalar_head.init(jax.random.key(self.config.seed), self.model.dim)  # noqa: E731
        return {scalar_head.NAME: jax.jit(make, out_shardings=sharding.named(self.mesh))()}

    def load_params(self, stage: str, workdir: Path | None = None, step: int | None = None):
        """The parameters of `stage` after a step, or the newest that are whole, here or in another workdir.

        Of a stage that trained an adapter: those that it was trained on, with the adapter added to them. Those of a
        reward model have its head beside them; a value head, which only training reads, is left out. Raises
        UserError when there are none, they know another tokenizer, or the adapter belongs to others.
        """
        workdir = workdir or self.workdir
        meta, params = self._read(stage, workdir, step)
        if not meta.get("lora"):
            return params
        values = ConfigDict(meta["lora"])
        params, head = scalar_head.parted(params)
        base = lora.frozen(self._base_of(stage, workdir, meta["parent"]), self.axes(), values.frozen)
        return lora.merged(lora.attached(params, base, lora.scale_of(values)), self.axes()) | head

    def load_adapter(self, stage: str):
        """(the record, the adapter) of a stage that trained one. Raises UserError when it did not, or has none."""
        meta, adapter = self._read(stage, self.workdir, None)
        if not meta.get("lora"):
            raise UserError(f"stage {stage!r} of {self.workdir} trained all parameters: it has no adapter")
        return meta, adapter

    def _read(self, stage: str, workdir: Path, step: int | None) -> tuple[dict, dict]:
        """(the record, parameters or adapter) of a checkpoint; with the head, where that is what the model is for."""
        with checkpoint.existing(workdir, stage) as store:

            def read(step: int):
                meta = store.meta(step)
                if meta["tokenizer"] != self.tokenizer_sha256:
                    mend = f"another tokenizer than {path_in(self.workdir / 'data')}"
                    raise UserError(f"{store.path} was trained with {mend}")
                values = meta.get("lora")
                abstract = self.abstract_adapter(ConfigDict(values)) if values else self.abstract_params()
                if scalar_head.is_in(meta["shapes"]):
                    abstract |= scalar_head.abstract(self.model.dim, self.mesh)
                params = store.restore_params(step, abstract)
                return meta, params if STAGES[stage].kind == "reward" else scalar_head.parted(params)[0]

            return store.newest(read) if step is None else read(step)

    def _base_of(self, stage: str, workdir: Path, parent: dict):
        """The parameters under the adapter of a stage. Raises UserError when they are not there, or are others."""
        where, step = workdir, parent["step"]
        if parent["run"] != OWN:  # it may lie elsewhere by now: its checksum tells it
            config = flatten(self.config) if workdir == self.workdir else read_noted(workdir)["config"]
            where = user_path(config["init_from"].rpartition(":")[0] or parent["run"], "init_from")
        what = f"stage {stage!r} of {workdir} is an adapter of step {step} of {parent['stage']!r} in {where}"
        if not (checkpoint.folder(where, parent["stage"]) / str(step)).is_dir():
            raise UserError(f"{what}, which is not there; bring it back")
        with checkpoint.existing(where, parent["stage"]) as store:
            now = checkpoint.digest(store.meta(step)["checksums"])
        if now != parent["checksum"]:
            what = f"{what} with the checksum {parent['checksum']}, and that is another one now ({now})"
            raise UserError(f"{what}; bring that back, or move {Path(workdir) / stage} away to have it done again")
        return self.load_params(parent["stage"], where, step)

    def kind_of(self, stage: str) -> str:
        """Of a stage's model: "base" continues documents, "chat" answers turns, which its tokenizer must know."""
        return STAGES[stage].kind if self.tokenizer.talks else "base"

    def trained(self) -> list[str]:
        """Stages that have a whole checkpoint, in the order of training."""
        return [stage for stage in trained() if checkpoint.written(self.workdir, stage)]

    def writing(self) -> list[str]:
        """Those of them whose model writes text."""
        return [stage for stage in self.trained() if STAGES[stage].writes]

    def choose(self, stage: str = "") -> str:
        """`stage`, or the newest one when it is empty. Raises UserError when it is unknown or has no checkpoint."""
        if stage and stage not in writing():
            if stage in STAGES:
                raise UserError(f"stage {stage!r} trains no model that writes; choose from {', '.join(writing())}")
            known("stage", stage, writing())
        there = self.writing()
        if not there:
            raise UserError(f"{self.workdir} has no trained stage yet; run llm_jax.main first")
        if stage and stage not in there:
            what = f"run it first with --stages={stage}, or choose from {', '.join(there)}"
            raise UserError(f"{self.workdir} has no checkpoint of stage {stage!r}; {what}")
        return stage or there[-1]


def reader_mesh(m: ConfigDict, devices: list) -> Mesh:
    """The mesh of who reads a model of this config on these devices, and does not train it."""
    lengths = (m.dim, m.heads, m.kv_heads, m.ff_dim, m.expert_ff_dim, transformer.VOCAB_MULTIPLE)
    return sharding.make_mesh(sharding.reader_sizes(len(devices), lengths), devices)


def note(workdir: Path, config: ConfigDict) -> None:
    """Notes the config of a run, and of each stage what its numbers depend on, in the workdir's config.json."""
    identities = {name: identity(config, name) for name, stage in STAGES.items() if stage.identity}
    noted = {"format": checkpoint.FORMAT_VERSION, "config": flatten(config), **identities}
    replace(workdir / "config.json", json.dumps(noted, indent=1))


def read_noted(workdir: Path) -> dict:
    """What `main` noted of a run in its config.json. Raises UserError when the folder is no run of this version."""
    path = Path(workdir) / "config.json"
    try:
        there = path.is_file()
    except PermissionError as error:
        raise UserError(f"{workdir} may not be read by this user; ask its owner for the permission") from error
    if not there:
        mend = f"start one with llm_jax.main --workdir={shlex.quote(str(workdir))}"
        raise UserError(f"{workdir} is no run (it has no config.json); {mend}")
    noted = read_json(path)
    if noted.get("format") != checkpoint.FORMAT_VERSION:
        raise UserError(f"{workdir} is a run of another version of llm_jax; run it anew in another --workdir")
    if not isinstance(noted.get("config"), dict):
        raise UserError(f"{path} is damaged (it has no config); move it away, and llm_jax.main makes it again")
    return noted


def load_config(workdir: Path) -> ConfigDict:
    """The config that the run was started with, its extensions imported. Raises UserError as `read_noted` does."""
    config, noted = default(), read_noted(workdir)
    with config.unlocked():
        for key, value in noted["config"].items():
            start = next((section for section in OPEN if key.startswith(section)), "")
            *sections, name = [*start.split(".")[:-1], key[len(start) :]] if start else key.split(".")
            section = config
            for part in sections:
                section[part] = section.get(part, ConfigDict())  # that of a stage from elsewhere is not there yet
                section = section[part]
            try:
                section[name] = tuple(value) if isinstance(value, list) else value
            except TypeError as error:
                raise UserError(f"{workdir}/config.json is damaged: its {key} is {value!r}; run it anew") from error
    extend(config.extensions)
    return config
