"""Random command lines, generated from the YAML files and the signatures of their targets: new options and settings are
covered without a change here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, get_args, get_type_hints

import gr_cli.conf
import yaml
from hypothesis import strategies as st

from gr_cli.config import groups
from gr_cli.config.arguments import check_value
from gr_cli.config.instantiate import import_target
from gr_cli.config.schema import ALLOWED_VALUES
from gr_cli.errors import ConfigError
from helpers.small_networks import shrunk, value_text

CONF = Path(gr_cli.conf.__file__).parent
# How often each group is chosen from: there are presets and benchmarks only for data sets that are not there.
OFTEN = {"strategy": 7, "generator": 5, "strategy/regularizer": 3, "model": 2, "optimizer": 2}
SELDOM = ("tracker", "benchmark/features")  # what needs a library, or data
GROUPS = {name: OFTEN.get(name, 1) for name in groups.GROUPS if name not in SELDOM}
DEFAULTS = {
    "benchmark": "split_digits",
    "model": "mlp",
    "generator": "vae",
    "strategy": "generative_replay",
    "optimizer": "adam",
}


def _listed(text: str, between: str = " ") -> list[str]:
    """Split a text at `between`."""
    return text.strip().replace("\n", between).split(between)


# Values of which each setting takes those that fit it; small ones, so that what is valid is cheap.
CANDIDATES = [0, 1, 2, 3, 5, 0.0, 0.1, 0.5, 0.9, 1.0, 2.5, 30.0, True, False, None, [4], [3, 2], [], [0.9, 0.99]]

# What a person, a script or a shell might write instead.
WRONG = _listed(r"""
null -1 0 1.5 true nan inf -inf -0.0 1e3 1e-400 1e400 1e30 1e300 1e-30 1e-300 abc ??? 0x10 1_0 [] [0] [null] [[1]]
[1,2 [1,[2,{a:3}]] [a] {} {a:1} {a:{b:[1]}} {_target_:os.getcwd} {a:1 é 日本 🙂 " ' \ a=b a:b # % %s {0} @ : , * 1, ,1
1,2 $ $x ${ ${} ${seed} ${train.batch_size} ${model} ${.nothing} ${..seed} ${nothing} ${${seed}} x${seed}y
${oc.env:NO_SUCH} ${oc.env:NO_SUCH,2} ${oc.env:NO_SUCH,null} ${oc.decode:'{'} ${nope:1} ${hydra:job.name}
${hydra.job.num} ${oc.select:nothing,1} ${gr_sweep:[a]} int(3) str(3) float(x) json_str({}) range(3) range(1,9,0)
choice(1,2) choice() interval(0,1) glob(*) glob([*],exclude=v*) sort(3,1) shuffle(1,2) tag(a,choice(1)) extend_list(1)
nope(1)
""")
WRONG += ["", " ", "a b", "'a b'", "'it''s'", "\n", "a\nb", "\t", "\r", "\x1b[31m", "'\u2028'", "[1, 2]", "{a: 1, b: }"]

# Valid or not by their size alone: these are composed and checked, never run.
HUGE = ["1000000000", "1000000000000", "-1000000000000", "9" * 30]

TARGETS = _listed("""
gr_cli.generators.VAE gr_cli.generators.CVAE gr_cli.strategies.Finetune gr_cli.models.SimpleMLP gr_cli.models
gr_cli.nothing.X gr_cli.errors.ConfigError gr_cli.config.arguments.check_value gr_cli.__version__ os.getcwd
builtins.dict
builtins.print builtins.int torch.nn.ReLU collections.OrderedDict typing.Any nothing . .. a. .a a..b 3 null [a] {a:1}
é.é gr_cli.generators.base.Generator gr_cli.benchmarks.Digits gr_cli.benchmarks.split gr_cli.benchmarks.permuted
""")

# Nothing here starts processes, reaches for a cluster or leaves the folder.
HYDRA = _listed("""
hydra.run.dir=elsewhere hydra.run.dir= hydra.run.dir=${nothing} hydra.sweep.dir=swept hydra.sweep.dir=null
hydra.sweep.dir=${nothing} hydra.sweep.subdir=${hydra.job.num} hydra.sweep.subdir=null hydra.output_subdir=.hydra
hydra.output_subdir=3 hydra.job.chdir=true hydra.job.chdir=perhaps hydra.job.name=x hydra.job.name=null
hydra.job.env_set.A=b +hydra.job.env_set.A=1 hydra.mode=RUN hydra.mode=MULTIRUN hydra.mode=nope hydra.verbose=true
hydra.verbose=nope hydra.verbose=[a,b] hydra.nothing=3 +hydra.nothing=3 hydra=3 ~hydra hydra.run=3 ~hydra.run
~hydra.callbacks hydra.callbacks=null hydra.callbacks.check_first._target_=nope.X
+hydra.callbacks.mine._target_=nope.X +hydra.callbacks.mine=3 hydra.searchpath=[mine] hydra.searchpath=[pkg://nope]
hydra.searchpath=3 hydra.searchpath=[file://x] hydra.sweeper.max_batch_size=1 hydra.sweeper.max_batch_size=0
hydra.sweeper.params={seed:'0,1'} +hydra.sweeper.params.seed=0 hydra.sweeper._target_=nope.X hydra.sweeper=3
~hydra.sweeper hydra.launcher._target_=nope.X hydra.launcher=3 ~hydra.launcher ~hydra/launcher hydra/launcher=nope
hydra/launcher=basic hydra/launcher=batched hydra/launcher=null hydra/launcher=[a] hydra/sweeper=basic
hydra/sweeper=nope hydra/job_logging=default hydra/job_logging=nope hydra/hydra_logging=disabled hydra/output=nope
hydra/env=default hydra/help=nope hydra.launcher.width=1 hydra.launcher.width=0 hydra.launcher.processes=0
hydra.launcher.where=nowhere hydra.launcher.memory_mib=x hydra.job_logging=3 hydra.runtime.choices={}
hydra.overrides.task=[] ~hydra.overrides
""")
if find_spec("ray") is None:
    HYDRA.append("hydra/launcher=ray")
if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
    HYDRA.append("hydra/launcher=submitit_slurm")

FLAGS = _listed(
    """
--cfg job|--cfg hydra|--cfg all|--cfg nope|--cfg|-c job --resolve|--resolve|--info|--info defaults|--info config
--info nope|-c job -p train|-p nope|-c job --package nope|--help|-h|--version|--hydra-help|--run|-r|-cn nope|-cn config
--config-name|-cp nope|-cd nope|--config-dir .|--config-dir|-x|--|--shell-completion|-sc nope|--experimental-rerun nope
-m -m|-m --cfg job|--seed=3|-seed 3|-m -cd .|-cn preset/smoke|-cn schema
""",
    "|",
)

WORDS = _listed(r"""
strategy seed = =3 seed= seed==3 Seed=3 seed:3 +seed=1 ++seed=1 ~seed ~seed=0 ~seed=5 ~nothing + ~ ++ ~~seed +~seed
train= train=null train={} train={iterations:2} train={batch_size:x} +train={a:1} ~train ~train.iterations
train.iterations.x=3 train..iterations=3 .train=3 train.=3 train.0=3 0=3 a.b.c.d=1 +a.b.c.d=1 ++a.b=1 +a= model=
~model ~strategy ~benchmark ~generator ~optimizer ~preset +model=mlp ++model=mlp model@solver=cnn model@model=cnn
+generator@spare=vae generator@generator=cvae generator@_global_.generator=cvae generator@_global_=cvae strategy@=er
@=3 strategy/=er strategy/regularizer=null ~strategy/regularizer +strategy/regularizer=si
strategy/regularizer=[si,ewc] strategy/nothing=x regularizer=si model=mlp.yaml model=../model/mlp model=/model/mlp
model=./mlp model=[mlp] model=[mlp,cnn] model={a:1} model=mlp,cnn preset=null preset=smoke,none preset=[smoke]
+preset=smoke ~preset=none benchmark.source=null ~benchmark.source ~benchmark.source.name
benchmark.source.name=nothing +benchmark.source.name=MNIST benchmark.source._target_=gr_cli.benchmarks.Digits
benchmark.source={_target_:gr_cli.benchmarks.Digits} model.0=3 model.hidden_sizes.0=3 model.hidden_sizes.9=3
+model.hidden_sizes.2=3 model.hidden_sizes.x=3 ~model.hidden_sizes ~model._target_ +model.input_size=64
+model.input_size=63 +model.output_size=3 +model.input_shape=[1,8,8] +generator.sample_shape=[64] +generator.classes=3
+generator.value_range=[0,1] +generator.value_range=[1,1] +generator.value_range=null +generator.trials=1
+strategy.generator={_target_:gr_cli.generators.VAE} +benchmark.seed=3 +benchmark.data_root=x +optimizer.x=1
strategy.regularizer=3 +strategy.regularizer._target_=gr_cli.strategies.WeightPenalty
strategy.regularizer={_target_:gr_cli.strategies.WeightPenalty} _target_=x +_target_=x defaults=[] ~defaults choices=1
+choices={a:b} resume= resume=nowhere resume=. +resume=nowhere data_root=null data_root=here data_root=~nobody/x
device=cpu device=cuda:99 device=cuda:99999999999 device=cuda:x device=mps fresh=true train.iterations=null
train.epochs=1 train.batch_size=1 benchmark.validation_share=0.3 scenario=task evaluate.every=1 log.every=1
augment.shift=1 augment.shift=9 augment.noise=0.1 augment.flip=0.5 augment.flip=2 augment.contrast=0.3
augment.brightness=-1 normalise=first_task normalise=[[0.5],[0.5]] normalise=[[0.5],[0]] normalise=[]
precision=bf16 precision=float64 checkpoint.every_seconds=1
threads=2 threads=0 🙂=1 seed=🙂 séed=1 sееd=1 'seed=1' "seed"=1 seed='1' seed="1" log={every:1} log.every={a:1}
""")
WORDS += [
    "seed =3",
    " seed=3",
    "seed= 3",
    "train.iterations=2 3",
    "optimizer=adam sgd",
    "\n",
    "seed=\n3",
    "a\n=3",
    "",
    " ",
]

# The one benchmark that needs files, without them.
PERMUTED = (
    "benchmark=permuted_mnist",
    "benchmark.source._target_=gr_cli.benchmarks.Digits",
    "~benchmark.source.name",
    "benchmark.tasks=2",
)


# --- what there is


@dataclass(frozen=True)
class Setting:
    """The dotted path of a setting, and texts of valid values."""

    path: str
    fitting: tuple[str, ...]


def _literals(hint: Any) -> Iterator[str]:
    """The literals in a type annotation."""
    for part in get_args(hint):
        yield from [part] if isinstance(part, str) else _literals(part)


def _setting(path: str, hint: Any) -> Setting:
    fitting = []
    for value in [*CANDIDATES, *_literals(hint)]:
        try:
            check_value(value, hint, path)
        except ConfigError:
            continue
        fitting.append(value_text(value))
    return Setting(path, tuple(fitting) or ("null",))


def _settings_of(node: Mapping[str, Any], prefix: str) -> list[Setting]:
    """The settings of a node with a `_target_`, including nested nodes."""
    target = import_target(node["_target_"], prefix)
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    found = []
    for name, value in node.items():
        if isinstance(value, Mapping):
            found += _settings_of(value, f"{prefix}.{name}")
        elif name != "_target_":
            found.append(_setting(f"{prefix}.{name}", hints[name]))
    return found


def _node(group: str, option: str) -> dict[str, Any]:
    """The merged content of an option's file and its defaults, for its own group."""
    text = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    whole: dict[str, Any] = {}
    for base in text.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            whole = _merged(whole, _node(group, base))
    return _merged(whole, text)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested dicts merged; `other` wins."""
    both = {
        k: _merged(one[k], v) for k, v in other.items() if isinstance(v, Mapping) and isinstance(one.get(k), Mapping)
    }
    return {**one, **other, **both}


@cache
def options(group: str) -> tuple[str, ...]:
    """The options of a group."""
    return tuple(sorted(file.stem for file in (CONF / group).glob("*.yaml")))


@cache
def settings(group: str, option: str) -> tuple[Setting, ...]:
    """The settings of an option."""
    node = _node(group, option)
    return tuple(_settings_of(node, group.replace("/", "."))) if "_target_" in node else ()


@cache
def general() -> tuple[Setting, ...]:
    """The settings of the run itself."""
    return tuple(_setting(path, hint) for path, hint in ALLOWED_VALUES.items() if path not in ("data_root", "device"))


# --- what is made of it


@dataclass(frozen=True)
class Line:
    """A command line: flags, then overrides. `first`: the overrides of the first job of a sweep."""

    flags: tuple[str, ...]
    words: tuple[str, ...]
    first: tuple[str, ...]

    @property
    def huge(self) -> bool:
        """Whether a valid override in it may make the run long."""
        return any(text in word for word in self.words for text in HUGE)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """One to five overrides. Most lines are valid, or would be without one of them."""
    # From a seed of many parts, because hypothesis likes to repeat what it drew. What it can leave out are words.
    whole = _line(Random(repr([draw(st.integers(0, 2**32 - 1)) for _ in range(6)])))
    kept = [draw(st.integers(0, 99)) > 0 for _ in whole.words]
    words, first = ([w for w, keep in zip(part, kept, strict=True) if keep] for part in (whole.words, whole.first))
    return Line(whole.flags, tuple(words), tuple(first))


def _line(random: Random) -> Line:
    chosen, words = dict(DEFAULTS), []
    if random.random() < 0.08:
        words, chosen["benchmark"] = list(PERMUTED), "permuted_mnist"
    number, mood = random.randint(1, 5), random.random()
    odd = random.randrange(number)
    for i in range(number):
        wrong = random.random() < 0.5 if mood < 0.1 else mood < 0.45 and i == odd
        words.append(_odd(random, chosen) if wrong else _fitting(random, chosen))
    if random.random() < 0.03:
        words.append(random.choice(words))
    kind = random.random()
    if kind < 0.03:
        return Line(tuple(random.choice(FLAGS).split()), tuple(words), tuple(words))
    if kind < 0.07:
        return _sweep(random, tuple(words), chosen)
    return Line((), tuple(words), tuple(words))


def _known(chosen: Mapping[str, str]) -> list[Setting]:
    """The settings that exist once these options are chosen."""
    return [*general(), *(setting for group, option in chosen.items() for setting in settings(group, option))]


def _fitting(random: Random, chosen: dict[str, str]) -> str:
    """A valid override; a chosen option is recorded in `chosen`."""
    if random.random() < 0.3:
        (group,) = random.choices(tuple(GROUPS), tuple(GROUPS.values()))
        chosen[group] = option = random.choice(options(group))
        return f"{group}={option}"
    setting = random.choice(_known(chosen))
    sign = random.choice(("", "", "", "", "++", "+"))
    return f"{sign}{setting.path}={random.choice(setting.fitting)}"


def _odd(random: Random, chosen: Mapping[str, str]) -> str:
    """An override that is probably invalid."""
    path, group = random.choice(_known(chosen)).path, random.choice(tuple(DEFAULTS))
    value = random.choice(WRONG) if random.random() < 0.8 else _noise(random)
    makers: list[Callable[[], str]] = [
        *[lambda: f"{path}={value}"] * 5,
        lambda: f"{path}={random.choice(HUGE)}",
        lambda: f"~{path}",
        lambda: f"{path}{random.choice(('.x', 's', '.0', ' ', '[0]', '@x', '.'))}=1",
        lambda: f"{random.choice(tuple(GROUPS))}={value}",
        lambda: f"{group}._target_={random.choice(TARGETS)}",
        *[lambda: random.choice(HYDRA)] * 2,
        *[lambda: random.choice(WORDS)] * 4,
        lambda: _noise(random),
    ]
    return random.choice(makers)()


def _noise(random: Random) -> str:
    """A few random characters."""
    return "".join(chr(random.choice((random.randrange(1, 128), random.randrange(1, 0xD800)))) for _ in range(5))


def _sweep(random: Random, words: tuple[str, ...], chosen: Mapping[str, str]) -> Line:
    """A sweep of at most three jobs, with `words` in front."""
    setting, kind = random.choice(_known(chosen)), random.randrange(10)
    if kind == 0:
        odd = random.choice(("seed=range(2)", "seed=range(0)", "seed=glob(*)", "strategy=glob(er*)", "seed=0,x"))
        return Line(("-m",), (*words, odd), (*words, "seed=0"))
    values = [random.choice(setting.fitting) for _ in range(random.randint(1, 2))]
    if kind == 1:
        values.append(random.choice(WRONG))
    if kind < 5:
        words = ("hydra/launcher=batched", *words)
    written = f"choice({','.join(values)})" if kind == 2 else ",".join(values)
    return Line(("-m",), (*words, f"{setting.path}={written}"), (*words, f"{setting.path}={values[0]}"))


# --- what keeps it small


def budget(config: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Overrides that keep the run that `config` describes small; what `words` sets is left as it is."""
    said = {word.lstrip("+~").partition("=")[0] for word in words}
    small: dict[str, object] = {"train.iterations": 2} if config["train"]["epochs"] is None else {}
    if config["benchmark"].get("classes_per_task") == 2:
        small["benchmark.classes_per_task"] = 5
    for group in groups.STACKABLE_GROUPS:
        small |= shrunk(config[group] or {}, group)
    free = {p: v for p, v in small.items() if not any(p == name or p.startswith(f"{name}.") for name in said)}
    return [f"{path}={value_text(value)}" for path, value in free.items()]
