"""What the environment says about processes: understood, or refused in one line that names the variable."""

import json
import os
import subprocess
import sys
import types

import keras
import pytest

from training import ablate, cluster, evaluate, predict, probe, protocol
from training.configs import Finetune
from training.devices import Mesh, Replicas, _gpus_of_task, _slurm_resolver, open_devices

BACKEND = keras.backend.backend()
WORKERS = {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}
TASK = {"type": "worker", "index": 1}
STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
STEP |= {"SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
KERAS = dict(zip(cluster.KERAS, ("10.0.0.1:2222", "2", "1"), strict=True))


@pytest.fixture
def environment(monkeypatch):
    """Sets variables in place of whatever a cluster has set."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TF_CONFIG", "KERAS_DISTRIBUTION_"))]:
        monkeypatch.delenv(name)

    def set_all(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def asked(**changes):
    return open_devices(Finetune(**{"size": "atto", "batch_size": 8, **changes}), print)


def test_whole_variables_are_understood(environment):
    assert (cluster.by_tf_config(), cluster.by_keras(), cluster.by_slurm("jax"), cluster.several()) == (
        None,
        None,
        1,
        [],
    )
    environment(TF_CONFIG=json.dumps({"cluster": WORKERS, "task": TASK}), **KERAS, **STEP)
    assert cluster.by_tf_config() == (WORKERS["worker"], 1)
    assert cluster.by_keras() == ("10.0.0.1:2222", 2, 1)
    assert cluster.by_slurm("jax") == cluster.by_slurm("tensorflow") == 2
    assert cluster.several() == [cluster.TF_CONFIG, cluster.KERAS[1], cluster.SLURM_COUNT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"cluster": WORKERS}),
        json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}),
        json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": "x"}}),
        json.dumps({"cluster": {"chief": ["a:1"], **WORKERS}, "task": TASK}),
        json.dumps({"cluster": {"ps": ["a:1"], **WORKERS}, "task": {"type": "ps", "index": 0}}),
        json.dumps({"cluster": {"worker": ["10.0.0.1", "10.0.0.2"]}, "task": TASK}),
        json.dumps({"cluster": {"worker": "10.0.0.1:2222"}, "task": TASK}),
    ],
)
def test_another_tf_config_is_refused_by_its_name(text, environment):
    environment(TF_CONFIG=text)
    with pytest.raises(ValueError, match="^TF_CONFIG must be .* of workers alone. Received: .* Unset it") as caught:
        cluster.by_tf_config()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", cluster.KERAS)
def test_some_of_keras_variables_alone_are_refused(name, environment):
    environment(**{key: value for key, value in KERAS.items() if key != name})
    with pytest.raises(
        ValueError, match="KERAS_DISTRIBUTION_JOB_ADDRESSES, .* must be set together. Received: 'KERAS_"
    ):
        cluster.by_keras()


@pytest.mark.parametrize(
    "changes",
    [("10.0.0.1", "2", "1"), ("a:1", "2", "2"), ("a:1", "two", "0"), ("a:1,b:1,c:1", "2", "0"), ("", "2", "0")],
)
def test_contradicting_keras_variables_are_refused(changes, environment):
    environment(**dict(zip(cluster.KERAS, changes, strict=True)))
    with pytest.raises(ValueError, match="JOB_ADDRESSES must be HOST:PORT .* Received: "):
        cluster.by_keras()


@pytest.mark.parametrize(
    "backend, name", [(backend, name) for backend in cluster.SLURM for name in cluster.SLURM[backend]]
)
def test_a_step_of_slurm_with_a_variable_lacking_names_it(backend, name, environment):
    environment(**{**STEP, name: ""})  # as good as not set
    with pytest.raises(ValueError, match=f"must describe a step of Slurm, as srun sets them. Received: '{name}='"):
        cluster.by_slurm(backend)


def test_a_backend_does_not_train_alone_where_the_variables_of_another_say_several(environment):
    theirs = {"tensorflow": KERAS, "jax": {"TF_CONFIG": json.dumps({"cluster": WORKERS, "task": TASK})}, "torch": STEP}
    environment(**theirs[BACKEND])
    name = {"tensorflow": cluster.KERAS[1], "jax": cluster.TF_CONFIG, "torch": cluster.SLURM_COUNT}[BACKEND]
    with pytest.raises(ValueError, match=f"^training on {BACKEND} runs in one process.* Received: '{name}="):
        asked()


@pytest.mark.parametrize("variables", [{"TF_CONFIG": "{"}, KERAS, STEP], ids=["TF_CONFIG", "KERAS", "Slurm"])
@pytest.mark.parametrize("program", [evaluate, predict, probe], ids=lambda program: program.__name__)
def test_programs_that_would_do_everything_twice_refuse(program, variables, environment, capsys):
    if variables == {"TF_CONFIG": "{"}:
        variables = {"TF_CONFIG": json.dumps({"cluster": WORKERS, "task": TASK})}
    environment(**variables)
    values = protocol.define_flags(protocol.flags.FlagValues())
    values(["program", "--model", "none", "--data", "shapes", "--workdir", "none"])
    kind = {evaluate: evaluate.Evaluate, predict: predict.Predict, probe: probe.Probe}[program]
    assert protocol.main(["program"], kind, program.run, values=values) == 1
    name = program.__name__.split(".")[-1]
    assert f"error: {name} runs in one process. Received: '" in capsys.readouterr().err


def test_an_ablation_refuses_several_processes(environment, tmp_path, monkeypatch, capsys):
    environment(**STEP)
    monkeypatch.setattr(sys, "argv", ["ablate", "--workdir", str(tmp_path / "grid"), "--variants", "default"])
    assert ablate.main() == 1 and not (tmp_path / "grid").exists()
    assert "error: ablate runs in one process. Received: 'SLURM_STEP_NUM_TASKS=2'. Start it" in capsys.readouterr().err


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strategies are TensorFlow's")
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"strategy": "one", "devices": 3}, "strategy one has one device. Received: 3."),
        ({"strategy": "multi_worker"}, "multi_worker needs TF_CONFIG or the variables of srun. Received: 'neither'"),
        ({"strategy": "tpu"}, "strategy tpu could not start. Received: no variables; "),
    ],
)
def test_strategies_that_cannot_be_are_refused(settings, message, environment):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        asked(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strategies are TensorFlow's")
@pytest.mark.parametrize("variables", [{"TF_CONFIG": json.dumps({"cluster": WORKERS, "task": TASK})}, STEP])
@pytest.mark.parametrize("strategy", ["one", "mirrored", "tpu"])
def test_strategies_of_one_process_refuse_to_run_in_several(strategy, variables, environment):
    environment(**variables)
    message = f"^strategy {strategy} runs in one process. Received: '{next(iter(variables))}="
    with pytest.raises(ValueError, match=message):
        asked(strategy=strategy)


@pytest.mark.parametrize(
    "seen, task, tasks, bound, taken",
    [
        ("abcd", 1, 2, True, "cd"),  # all of the node
        ("abc", 1, 2, False, "b"),
        ("a", 3, 4, True, "a"),  # --gpus-per-task=1: Slurm has bound each to its own
        ("ab", 0, 1, False, "ab"),
        ("", 1, 2, False, ""),
        ("a", 1, 2, False, None),
    ],
)
def test_each_task_of_slurm_takes_gpus_of_its_own(seen, task, tasks, bound, taken, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if bound:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(seen))
    if taken is None:
        with pytest.raises(ValueError, match="a GPU for each of its tasks. Received: '1 for 2'. Try srun --ntasks-per"):
            _gpus_of_task(seen, task, tasks)
        return
    assert _gpus_of_task(seen, task, tasks) == taken


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strategies are TensorFlow's")
@pytest.mark.parametrize("gpus, own", [("abcd", "c"), ("ab", "ab"), ("", "")])
def test_a_step_of_slurm_is_resolved_for_tensorflow(gpus, own, environment, monkeypatch):
    import tensorflow as tf

    chosen = []
    four = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_TASKS_PER_NODE": "1,3"}
    environment(**{**STEP, **four})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda mine, kind: chosen.append(mine))
    resolver = _slurm_resolver(tf)
    workers = ["node1:8888", "node2:8888", "node2:8889", "node2:8890"]
    assert resolver.cluster_spec().as_dict() == {"worker": workers}
    assert (resolver.task_type, resolver.task_id, resolver.rpc_layer) == ("worker", 3, "grpc")
    assert chosen == [list(own)] and resolver.num_accelerators() == {"GPU": len(own)}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpus


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strategies are TensorFlow's")
def test_devices_have_no_effect_under_several_machines_and_a_second_run_meets_nobody_anew():
    """In a process of its own: TensorFlow looks for others before anything else."""
    body = """
from training.configs import Finetune
from training.devices import open_devices

config = dict(size="atto", batch_size=8, strategy="multi_worker")
for _ in range(2):
    assert open_devices(Finetune(**config), print).count == 1
try:
    open_devices(Finetune(**config, devices=3), print)
except ValueError as error:
    print(error)
"""
    alone = json.dumps({"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}})
    answer = subprocess.run(
        [sys.executable, "-c", body], env={**os.environ, "TF_CONFIG": alone}, capture_output=True, text=True
    )
    expected = "devices must be none or 1, all that a process has under strategy multi_worker. Received: 3."
    assert answer.stdout.strip() == expected, answer.stderr[-2000:]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strategies are TensorFlow's")
@pytest.mark.parametrize("processes, kind", [(1, "TPUStrategy"), (2, "MultiWorkerMirroredStrategy")])
def test_the_hosts_of_a_tpu_are_no_processes(processes, kind, monkeypatch):
    """Of a strategy that is none of TensorFlow's but says it is: there are eight devices on two hosts."""
    import tensorflow as tf

    class Strategy:
        num_replicas_in_sync = 8
        extended = types.SimpleNamespace(worker_devices=())
        cluster_resolver = types.SimpleNamespace(cluster_spec=lambda: tf.train.ClusterSpec(WORKERS), task_id=1)

    monkeypatch.setattr(tf.distribute, kind, Strategy)
    devices = Replicas(Strategy())
    assert (devices.processes, devices.process, devices.local) == (processes, processes - 1, 8 // processes)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
@pytest.mark.parametrize("devices", [None, 1, 2])
def test_processes_of_jax_with_unequal_devices_are_told(devices, monkeypatch, environment):
    import jax

    (one,) = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda i: [one] * (2 - i))
    with pytest.raises(ValueError, match="as many devices. Received: '2, 1'. Hide some, or give all"):
        asked(devices=devices)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_process_that_asks_for_too_many_devices_tells_the_others(monkeypatch, environment):
    import jax

    failed, (one, *_) = [], jax.local_devices()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda i: [one] * 2)
    monkeypatch.setattr(Mesh, "fail", lambda mesh: failed.append(mesh))
    with pytest.raises(ValueError, match="devices must be at most 2, the .* there are. Received: 3."):
        asked(devices=3)
    assert len(failed) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_processes_of_jax_that_do_not_meet_are_told_once(monkeypatch, environment):
    import jax

    def initialize(*who, **options):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody\nmore")

    environment(**KERAS)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ConnectionError, match="could not start. Received: KERAS_.*; DEADLINE_EXCEEDED: nobody more"):
        asked()
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)  # by an earlier run of this process
    assert asked().count == 1
