"""The command line: help, completion, and what the user typed wrong, each on one line before
anything heavy is imported."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from support import Run, clean, run_in

from cifar_hpo.__main__ import main
from cifar_hpo.hydra_internals import HAS_WHITELIST
from cifar_hpo.interruption import SIGNALS
from cifar_hpo.objective import Objective
from cifar_hpo.sweep import loop
from cifar_hpo.sweep.plan import Plan

Refused = Callable[..., str]

HEAVY = ("tensorflow", "keras", "mlflow", "optuna", "numpy")


@pytest.mark.parametrize(
    "module",
    ["__main__", "config.app", "objective", "sweep.plan", "study.space", "workers.pool", "report"],
)
def test_importing_the_command_line_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, cifar_hpo.{module}; print([n for n in {HEAVY} if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_help_lists_groups_keys_and_examples(run: Run) -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for expected in (
        "model: base, deep, enhanced, wide",
        "optimizer: adam, adamw, muon, nesterov, rmsprop, sgd",
        "kernel_size",
        "pixels",
        "-m model.filters=4,8,16",
    ):
        assert expected in shown.stdout


def test_completion_offers_groups_and_values(run: Run) -> None:
    assert "optimizer=sgd" in run("-sc", "query=bash", COMP_LINE="cifar-hpo optimizer=s").stdout
    assert "model.kernel_size=" in run("-sc", "query=bash", COMP_LINE="cifar-hpo model.kern").stdout


WRONG = {
    "model.filters=0": "model.filters",
    "model.filters=abc": "model.filters",
    "model.filters=2.5": "model.filters",
    "model.filters=[]": "model.filters",
    "model.filters=true": "model.filters",
    "model.filters=null": "model.filters",
    "model.filterz=4": "model.filterz",
    "+model.extra=4": "model.extra",
    "model=huge": "model/huge",
    "model.kernel_size=0": "model.kernel_size",
    "model.kernel_size=[3]": "model.kernel_size",
    "model.depth=9": "model",
    "model.dropout=1": "model.dropout",
    "model.batch_norm=3": "model.batch_norm",
    "optimizer=adagrad": "optimizer/adagrad",
    "optimizer.learning_rate=fast": "optimizer.learning_rate",
    "optimizer.learning_rate=inf": "optimizer.learning_rate",
    "optimizer.momentum=0.9": "optimizer.momentum",
    "+optimizer.momentum=0.9": "optimizer.momentum",
    "optimizer.name=lion": "optimizer.name",
    "training.batch_size=-1": "training.batch_size",
    "training=null": "group",
    "data.validation=1": "data.validation",
    "data.validation=null": "data.validation",
    "data.augment=[spin]": "data.augment",
    "mlflow.tracking_uri=http://me:SECRET@localhost/": "mlflow.tracking_uri",
    "~model": "model",
    "+model._target_=os.system": "model._target_",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_value_is_refused_on_one_line(
    override: str, refused: Refused, small: list[str], tmp_path: Path
) -> None:
    assert WRONG[override] in refused(*small, override)
    assert not (tmp_path / "mlflow.db").exists()


SWEPT_WRONG = {
    "model.filters=4,,8": "model.filters",
    "model.filters=4,0": "model.filters",
    "model.filters=4,abc": "model.filters",
    "model.filters=range(4,4)": "model.filters",
    "model.kernel_size=3,99": "model.kernel_size",
    "model.depth=3,7": "model",
    "optimizer=adam,adagrad": "optimizer/adagrad",
    "optimizer.learning_rate=interval(0.1,0.001)": "optimizer.learning_rate",
    "optimizer.learning_rate=tag(log,interval(0,1))": "optimizer.learning_rate",
    "optimizer.learning_rate=interval(0.001,0.1)": "hydra.sweeper.n_trials",
    "training.batch_size=100000,32": "training.batch_size",
    "hydra.sweeper.metric=val_acuracy": "hydra.sweeper.metric",
    "hydra.sweeper.metric=val_accuracy_std": "training.replicas=2",
    "hydra.sweeper.metric=[]": "hydra.sweeper.metric",
    "hydra/sweeper/pruner=median hydra.sweeper.metric=test_accuracy": "hydra.sweeper.pruner",
    "hydra.sweeper.study_name=../../x": "hydra.sweeper.study_name",
    "hydra.sweeper.n_trials=-1": "hydra.sweeper.n_trials",
    "hydra.sweeper.track=false": "hydra.sweeper.track",
    "hydra.sweeper.direction=up": "hydra.sweeper.direction",
    "hydra.sweeper.sampler.name=best": "hydra.sweeper.sampler.name",
    "hydra.launcher.n_workers=0": "hydra.launcher.n_workers",
    "hydra.sweeper.storage=postgresql://me:SECRET@localhost/x": "hydra.sweeper.storage",
    "hydra.sweeper._target_=os.system": "hydra.sweeper._target_",
    "+hydra.sweeper.params={model.filters:'4,0'}": "model.filters",
}


@pytest.mark.parametrize("override", SWEPT_WRONG)
def test_a_wrong_sweep_is_refused_before_a_worker_starts(
    override: str, refused: Refused, small: list[str], tmp_path: Path
) -> None:
    assert SWEPT_WRONG[override] in refused("-m", *small, *override.split())
    assert not list(tmp_path.rglob("worker_*.log"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("model.filters=0",),
        ("mlflow.tracking_uri=http://me:SECRET@localhost/",),
        ("-m", "model.filters=4,0"),
        ("-m", "hydra.sweeper.metric=val_acuracy"),
    ],
)
def test_what_is_refused_ends_the_command_on_one_line(
    arguments: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    assert_refused(run(*arguments), arguments[-1].partition("=")[0])
    assert not (tmp_path / "mlflow.db").exists()


def test_a_sweep_without_m_says_so(run: Run) -> None:
    assert_refused(run("model.filters=4,8"), "--multirun")


def assert_refused(shown: subprocess.CompletedProcess[str], expected: str) -> None:
    """Exit code 2 and one line that names the place; no secret in it."""
    assert shown.returncode == 2, shown.stderr
    lines = shown.stderr.strip().splitlines()
    assert len(lines) == 1, shown.stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert "SECRET" not in shown.stdout + shown.stderr


@pytest.fixture
def restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process after `main` as it was before: its folder, streams, logs and signals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    # Hydra closes all handlers that there are; absl's would close pytest's standard error.
    monkeypatch.setattr(logging, "_handlerList", [])
    root = logging.getLogger()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, handler in before.items():
        signal.signal(number, handler)
    logging.setLogRecordFactory(logging.LogRecord)


@pytest.fixture
def refused(
    restored: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """`refused(*arguments)` is the line on which the command line refuses them, in this process."""

    def run(*arguments: str) -> str:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["cifar_hpo", *arguments])
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2, lines
        assert len(lines) == 1, lines
        assert "SECRET" not in lines[0]
        return lines[0].removeprefix("error: ")

    return run


SWEEP = "hydra.sweeper"
WRONG_OPTIONS = {
    "enqueue=[8]": "8 is no configuration",
    "enqueue=8": "enqueue=8",
    "enqueue=[{}]": "{} is no configuration",
    "+conditions={x: 1}": f"{SWEEP}.conditions.x: 1 is no condition",
    "+conditions={model.filters: '=3'}": "is no condition",
    "+conditions={model.filters: 'optimizer=adam'}": "must vary",
    "constraints=['parameters <= 1e']": "1e is no number",
    "constraints=['parameters <= ١٢']": "is not like",
    "constraints=[[a]]": f"{SWEEP}.constraints: ['a']",
    "constraints='parameters <= 1'": "constraints",
    "params=[a]": "params",
    "+params={hydra.job.name: 'a,b'}": "not Hydra's",
    "metric=3": f"{SWEEP}.metric: 3",
    "metric=[[val_loss]]": f"{SWEEP}.metric: ['val_loss']",
    "metric=[val_loss,val_loss]": "twice",
    "metric=''": f"{SWEEP}.metric: ''",
    "direction=3": f"{SWEEP}.direction: 3",
    "direction=[[maximize]]": f"{SWEEP}.direction: ['maximize']",
    "direction={}": f"{SWEEP}.direction: {{}}",
    "sampler=tpe": "hydra/sweeper/sampler=tpe",
    "sampler=null": "hydra/sweeper/sampler=NAME",
    "sampler.name=[a]": "sampler.name",
    "+sampler.foo=1": f"{SWEEP}.sampler.foo",
    "pruner=asha": "hydra/sweeper/pruner=asha",
    "+foo=1": f"{SWEEP}.foo",
    "target=nan": f"{SWEEP}.target",
    "timeout=0": f"{SWEEP}.timeout",
    "timeout=inf": f"{SWEEP}.timeout",
    "n_trials=1e400": f"{SWEEP}.n_trials",
    "study_name=[a]": f"{SWEEP}.study_name",
}


def test_options_of_a_wrong_form_are_refused(refused: Refused) -> None:
    for option, expected in WRONG_OPTIONS.items():
        sign = option[0] if option[0] == "+" else ""
        override = f"{sign}{SWEEP}.{option.removeprefix('+')}"
        assert expected in refused("-m", "model.filters=4,8", override), option


WRONG_VALUES = {
    "model.filters=[[2,4],[2,4,4]]": "[2, 4] is not a whole number",
    "model.filters=1e400": "inf is not a whole number",
    "model.filters=١٢": "model.filters",
    "model.filters=nan,4": "nan is no value",
    "model.filters=1,true": "can't be told apart",
    "model.dropout=0,0.0": "can't be told apart",
    "model.dropout=0,false": "can't be told apart",
    "model.filters=range(0,1000000000)": "of at most",
    "model.filters=range(1,5,0)": "step not 0",
    "model.dropout=interval(0,inf)": "finite",
    "model.filters=interval(8.5,64)": "whole numbers",
    "data.validation=[0.1,0.2]": "data.validation",
    "data.augment=[[flip]]": "data.augment",
    "hydra.launcher=3": "hydra/launcher=NAME",
    "+hydra.launcher.foo=1": "hydra.launcher.foo",
    "hydra.sweep.dir=null": "hydra.sweep.dir",
    "training.seed=${oc.env:NOT_SET}": "training.seed",
    "hydra.sweep.subdir=x": "hydra.sweep.subdir: 'x' is the folder of all trials",
    "training.seed=${a.${b}}": "training.seed",
    "+=3": "config",
    "=": "Could not override",
    "~hydra.job_logging.root": "hydra/job_logging=NAME",
}


def test_values_that_cannot_be_are_refused(refused: Refused) -> None:
    for override, expected in WRONG_VALUES.items():
        assert expected in refused("-m", "training.epochs=1,2", override), override


@pytest.mark.parametrize(
    "arguments",
    [["--run", "--multirun"], ["--resolve"], ["--config-dir", "nowhere"], ["-cn", ""]],
)
def test_arguments_that_hydra_refuses_end_on_one_line(
    arguments: list[str], refused: Refused
) -> None:
    assert refused(*arguments)


@pytest.mark.parametrize("argument", ["--experimental-rerun=x", "--exp=x"])
def test_a_pickle_is_not_run_again(argument: str, refused: Refused) -> None:
    assert "a pickle may run anything" in refused(argument)


BASE = "defaults: [config, _self_]\n"
WRONG_FILES = {
    "model:\n\tfilters: 4": "any.yaml, line 3, column 1",
    "model:\n  filters: 4\n  filters: 8": "any.yaml, line 4, column 3: found duplicate key filters",
    "# gr\xfcn": "any.yaml, line 2, column 5: not UTF-8",
    "model: {filters: [4": "any.yaml, line ",
    "model: !!python/object/apply:os.system ['touch called']": "any.yaml, line 2",
    "model: &a\n  x: *a": "recursive aliases" if HAS_WHITELIST else "contains itself",
    "---\na: b": "any.yaml, line 2, column 1",
    "\0": "any.yaml",
    "model: 3": "Model",
    "1: 2": "Key '1'",
    "hydra: 3": "HydraConf",
    "hydra: {sweeper: 3}": "Sweeper",
    "model: {filters: '${model.filters'}": "model.filters: ",
}
OTHER_FILES = {
    "": "optimizer: missing",
    "- a": "must be a DictConfig",
    "3": "any.yaml: 3 is no mapping",
    "!!set {a}": "any.yaml: {'a'} is no mapping",
    "!!binary aGk=": "any.yaml: b'hi' is no mapping",
    "just text": "optimizer: missing",
    "defaults: 3": "defaults must be a list",
    "defaults: [config, {model: 3}]": "defaults",
    "defaults: [config, nothing]": "nothing",
}


def test_a_damaged_config_file_is_told_with_its_place(refused: Refused) -> None:
    contents = {BASE + content: expected for content, expected in WRONG_FILES.items()}
    for content, expected in (contents | OTHER_FILES).items():
        Path("any.yaml").write_bytes(content.encode("latin-1"))
        assert expected in refused("--config-dir", ".", "-cn", "any"), content
    assert not Path("called").exists()


CALL = "{_target_: os.system, command: touch called}"
CONSOLE = "job_logging: {handlers: {console: "
CALLS = {
    f"callbacks: {{x: {CALL}}}": "hydra.callbacks.x._target_",
    "callbacks: '${oc.decode:${data.path}}'": "hydra.callbacks",
    "callbacks: '${oc.create:{a: 1}}'": "hydra.callbacks",
    "callbacks: '${${data.path}:x}'": "hydra.callbacks",
    f"sweeper: {CALL}": "hydra.sweeper",
    "sweeper: {_target_: os.system}": "hydra.sweeper._target_",
    "launcher: {_target_: os.system}": "hydra.launcher._target_",
    "launcher: {_target_: hydra_plugins.evil.Launcher}": "hydra.launcher._target_",
    "sweeper: {params: {+model.x: '{_target_ : os.system}'}}": "hydra.sweeper.params",
    "sweeper: {enqueue: ['{\"_target_\": os.system}']}": "hydra.sweeper.enqueue[0]",
    CONSOLE + "{(): os.system, command: touch called}}}": "console.()",
    CONSOLE + "{class: antigravity.X}}}": "console.class",
    CONSOLE + "{class: '${data.path}'}}}": "console.class",
    CONSOLE + "{stream: 'ext://os.environ'}}}": "console.stream",
    CONSOLE + "{stream: '${data.path}'}}}": "console.stream",
    "hydra_logging: {formatters: {simple: {class: os.system}}}": "simple.class",
    "job_logging: {filters: {f: {(): subprocess.Popen, args: id}}}": "filters.f.()",
    "job_logging: {handlers: {file: {filename: /tmp/x.log}}}": "file.filename",
    "job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/../x.log'}}}": (
        "file.filename"
    ),
    "job: {env_set: {LD_PRELOAD: x.so}}": "hydra.job.env_set.LD_PRELOAD",
    "job: {env_copy: [HOME]}": "hydra.job.env_",
    "job: {name: ../x}": "hydra.job.name",
    "output_subdir: ../../x": "hydra.output_subdir",
    "searchpath: ['pkg://antigravity']": "hydra.searchpath",
    "sweeper: {storage: 'postgresql://me:SECRET@host/db'}": "hydra.sweeper.storage",
    "sweeper: {storage: 'postgresql://me:SE CRET@host/db'}": "hydra.sweeper.storage",
    "sweeper: {storage: 'postgresql://me:${oc.env:NAME,SECRET}@host/db'}": "hydra.sweeper.storage",
}


def test_what_a_config_file_would_have_called_or_spelled_out_is_refused(refused: Refused) -> None:
    for content, expected in CALLS.items():
        Path("any.yaml").write_text(f"{BASE}hydra:\n  {content}\n")
        assert expected in refused("--config-dir", ".", "-cn", "any"), content
    Path("hydra", "callbacks").mkdir(parents=True)
    Path("hydra", "callbacks", "x.yaml").write_text(f"x: {CALL}")
    Path("any.yaml").write_text("defaults: [config, override hydra/callbacks: [x], _self_]")
    assert "callbacks.x._target_" in refused("--config-dir", ".", "-cn", "any")
    Path("any.yaml").write_text(BASE + "data: {augment: [{_target_ : os.system}]}")
    assert "data.augment[0]._target_" in refused("--config-dir", ".", "-cn", "any")
    assert "model.x" in refused("-m", "+model.x={_target_ : os.system},3")
    assert not Path("called").exists()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    "argument", ["hydra/launcher=joblib", "hydra/sweeper=basic", "hydra/job_logging=disabled"]
)
def test_what_an_installed_package_brings_may_be_chosen(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cifar_hpo", "--cfg", "job", argument])
    main()
    assert "filters: 4" in capsys.readouterr().out


@pytest.mark.usefixtures("restored")
def test_each_job_has_its_own_value_of_an_interpolation_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(Objective, "prepare", lambda self, checked: "")

    def run_sweep(plan: Plan, *_: object) -> loop.Ended:
        plans.append(plan)
        return loop.Ended(plan, "s", [], None, is_whole=True)

    monkeypatch.setattr(loop, "run_sweep", run_sweep)
    argv = ["cifar_hpo", "-m", "training.seed=${hydra:job.num}", "model.filters=4,8"]
    monkeypatch.setattr(sys, "argv", argv)
    main()
    (plan,) = plans
    for number, cell in enumerate(plan.space.cells()):
        config = plan.composer.compose(number, cell)
        assert plan.validate(config, cell).training.seed == number


def test_help_goes_to_a_pipe_that_closes(tmp_path: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m cifar_hpo --help | head -1"
    shown = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean(),
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "== cifar_hpo: sweeps of CNNs ==\n"


def test_a_terminal_in_ascii_can_read_it(run: Run) -> None:
    shown = run("model.filters=0", PYTHONIOENCODING="ascii")
    assert shown.returncode == 2
    assert "must be >= 1 and <= 4096" in shown.stderr


@pytest.mark.long
@pytest.mark.usefixtures("store")
def test_settings_of_keras_and_the_current_folder_of_hydra_change_no_training(
    tmp_path: Path, small: list[str]
) -> None:
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 1e-3, "backend": "jax",'
        ' "image_data_format": "channels_first"}'
    )
    shown = run_in(
        tmp_path,
        *small,
        "model.filters=2",
        "training.epochs=1",
        "mlflow.system_metrics=false",
        "hydra.job.chdir=true",
        KERAS_BACKEND="jax",
        KERAS_HOME=str(tmp_path),
    )
    assert shown.returncode == 0, shown.stderr
    assert [path.parent for path in tmp_path.rglob("*.db")] == [tmp_path]
    (artifacts,) = (tmp_path / "mlruns").glob("1/models/*/artifacts")
    assert list(tmp_path.rglob("model.keras")) == [artifacts / "data" / "model.keras"]
