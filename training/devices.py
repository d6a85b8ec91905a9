"""Which devices a run uses, and what its processes tell each other.

The batch is the global one: each process prepares its rows of it, each device works off its part, and one sum over all
devices makes the gradients those of one device.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import sys
import zlib

import keras
import numpy as np

from training import cluster
from training.fields import require

HEARTBEAT = 30  # seconds until JAX takes a silent process for lost; the beats come from a thread of their own
STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")
VARIABLES = {  # that speak of several processes, and whose they are
    "tensorflow": (cluster.TF_CONFIG, cluster.SLURM_COUNT),
    "jax": (cluster.KERAS[1], cluster.SLURM_COUNT),
}


class OneDevice:
    """One device in one process, and what every kind of Devices has.

    Attributes:
        count: devices of all processes.
        local: devices of this process.
        process, processes: the number of this process, and how many there are.
    """

    count = local = processes = 1
    process = 0
    lost = ()  # what a backend raises where another process is missing

    @property
    def chief(self):
        """Whether this process is the one that writes."""
        return self.process == 0

    @property
    def share(self):
        """(number of this process, how many there are), as the pipeline wants it."""
        return self.process, self.processes

    def scope(self):
        """Within it models, optimizers and steps are made."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def naming_a_lost_process(self):
        """Within it, whatever a backend raises where another process has ended is one line."""
        try:
            yield
        except self.lost as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            reason = first[:200]  # of this process' own failures too
            raise ConnectionError(
                f"process {self.process} cannot go on: another process of this run has ended, or this: {reason}. Start "
                "all of them again with --resume"
            ) from error

    def fail(self):
        """Said where this process alone has failed: the others must learn of it, who wait for it."""

    def sum(self, numbers):
        """The sums over all processes of an array; each of them must ask."""
        return np.asarray(numbers, "float64")

    def of_chief(self, number):
        """What this number is in the chief's process."""
        return self.sum(number if self.chief else 0).item()

    def of_all(self, number):
        """What this number is in each process."""
        mine = np.zeros(self.processes)
        mine[self.process] = number
        return self.sum(mine).tolist()

    def largest(self, number):
        """The largest of this number over all processes."""
        return max(self.of_all(number))

    def in_turn(self, make, wanted=True):
        """What make() returns, where wanted called in one process after the other: it may write what they share."""
        if not wanted or self.processes == 1:
            return make()
        made = None
        for process in range(self.processes):
            made = make() if process == self.process else made
            self.sum(0)
        return made

    def require_same(self, what, number):
        """Raises in every process unless all of them have the same number."""
        numbers = self.of_all(number)
        others = [str(i) for i, other in enumerate(numbers) if other != numbers[0]]
        if others:
            where = ", ".join(others)
            raise ValueError(f"all processes must have the same {what}. Received: another in process {where}.")

    def require_same_values(self, what, variables):
        """Raises in every process unless these variables hold the same in all of them."""
        if self.processes > 1:
            arrays = (keras.ops.convert_to_numpy(variable.value) for variable in variables)
            self.require_same(what, functools.reduce(lambda number, x: zlib.crc32(x.tobytes(), number), arrays, 0))

    def require_same_pictures(self, *sources):
        """Raises in every process unless all of them have the same pictures, classes and labels, in the same order.

        To ask before a model is built: its variables begin as the chief's, which must have their shapes.
        """
        for source in sources if self.processes > 1 else ():
            self.require_same(f"pictures, classes and labels in {source.name}", source.fingerprint)


ONE = OneDevice()


class Replicas(OneDevice):
    """The replicas of a `tf.distribute` strategy."""

    def __init__(self, strategy):
        import tensorflow as tf

        self.strategy, self.count = strategy, strategy.num_replicas_in_sync
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):  # of all hosts of a TPU one has the program
            resolver = strategy.cluster_resolver
            self.processes, self.process = len(resolver.cluster_spec().as_dict()["worker"]), resolver.task_id
        if self.processes > 1:
            self.lost = _raised_by_tensorflow()
        self.local = self.count // self.processes
        self.devices = strategy.extended.worker_devices  # of this process

    def scope(self):
        return self.strategy.scope()

    def rows(self, rows):
        """A tree of this process' rows, for each of its replicas its part."""

        def part(context):
            i = context.replica_id_in_sync_group % self.local
            return {key: np.split(value, self.local)[i] for key, value in rows.items()}

        return self.strategy.experimental_distribute_values_from_function(part)

    def copy(self, variables, i):
        """The values of variables on a replica of this process."""
        import tensorflow as tf

        return [tf.convert_to_tensor(self.strategy.experimental_local_results(v.value)[i]) for v in variables]

    def sum(self, numbers):
        numbers = super().sum(numbers)
        if self.processes == 1:
            return numbers
        mine = lambda context: numbers * (context.replica_id_in_sync_group % self.local == 0)  # noqa: E731
        values = self.strategy.experimental_distribute_values_from_function(mine)
        return np.asarray(self.strategy.reduce("SUM", values, axis=None))


class Mesh(OneDevice):
    """The devices of all JAX processes: rows of a batch are parted over them, everything else is whole on each."""

    def __init__(self, devices):
        import jax

        self.processes, self.process, self.count = jax.process_count(), jax.process_index(), len(devices)
        self.local = self.count // self.processes
        self.lost = (jax.errors.JaxRuntimeError,) if self.processes > 1 else ()
        mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
        self.parted, self.whole = (jax.sharding.NamedSharding(mesh, jax.P(*axes)) for axes in (("rows",), ()))

    def rows(self, rows):
        """A tree of this process' rows, as global arrays."""
        import jax

        return jax.tree.map(lambda value: jax.make_array_from_process_local_data(self.parted, value), rows)

    def fail(self):
        if self.processes > 1:
            atexit.register(_end_at_once)

    def own(self, rows):
        """The rows of this process of a global array, as numpy."""
        shards = sorted(rows.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    def sum(self, numbers):
        numbers = super().sum(numbers)
        if self.processes == 1:
            return numbers
        from jax.experimental import multihost_utils

        # gathered as bytes: JAX would make float32 of them
        gathered = multihost_utils.process_allgather(np.frombuffer(numbers.tobytes(), "uint8"))
        return np.frombuffer(np.asarray(gathered).tobytes(), "float64").reshape(-1, *numbers.shape).sum(0)


def _end_at_once():
    """JAX would wait for the others for minutes, and then end them without a word; a lost connection they can name."""
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def open_devices(config, say):
    """The Devices that `config.devices` and `config.strategy` ask for, before anything is computed.

    Raises:
        ValueError: more devices than there are, a strategy that this backend or machine does not have, or variables of
            the environment that do not describe the processes.
    """
    backend = keras.backend.backend()
    cluster.require_one_process(f"training on {backend}", VARIABLES.get(backend, ()))
    if config.strategy != "auto" and backend != "tensorflow":
        raise ValueError(f"strategy is TensorFlow's; {backend} needs auto. Received: {config.strategy!r}.")
    if backend == "tensorflow":
        devices = _of_tensorflow(config.devices, config.strategy)
    elif backend == "jax":
        devices = _of_jax(config.devices)
    else:
        devices = OneDevice()
        if (config.devices or 1) > 1:
            say(f"{backend} trains on one device here, not on {config.devices}: TensorFlow and JAX take more")
    return devices


def require_divisible(config, devices):
    """Raises where devices cannot share the batch; to ask once all processes are known to have the same recipe.

    Before that one of them could raise alone, and the others would wait for it.
    """
    parts = devices.count * config.accumulation
    if config.batch_size % parts:
        near = max(1, round(config.batch_size / parts)) * parts
        raise ValueError(
            f"batch_size must be divisible by devices times accumulation, {devices.count} x {config.accumulation}. "
            f"Received: {config.batch_size}. Nearest: {near}."
        )


def _raised_by_tensorflow():
    from tensorflow import errors

    return errors.UnavailableError, errors.AbortedError, errors.DeadlineExceededError, errors.InternalError


def _too_many(asked, there, what):
    return ValueError(f"devices must be at most {there}, the {what} there are. Received: {asked}.")


def _of_tensorflow(count, strategy):
    import tensorflow as tf

    if strategy == "auto":
        strategy = _strategy_of_the_machine(tf)
    if strategy != "multi_worker":
        cluster.require_one_process(f"strategy {strategy}")
    if strategy in ("tpu", "multi_worker"):
        devices = Replicas(_of_several_machines(strategy, _variables()))
        rule = f"devices must be none or {devices.local}, all that a process has under strategy {strategy}"
        require(count in (None, devices.local), rule, count)
        return devices
    gpus = tf.config.list_physical_devices("GPU")
    if strategy == "one":
        require(count in (None, 1), "strategy one has one device", count, "Try strategy=auto.")
        count = 1
    count = count or len(gpus) or 1
    if count == 1 and strategy != "mirrored":
        return OneDevice()
    if gpus:
        there, what = tf.config.list_logical_devices("GPU"), "GPUs"
    else:
        there, what = _logical_cpus(tf, count), "logical CPUs"
    if count > len(there):
        raise _too_many(count, len(there), what)
    return Replicas(_mirrored(tuple(device.name for device in there[:count])))


@functools.cache
def _mirrored(names):
    """One for all runs of a process: each numbers its reductions from the start, and TensorFlow keeps their shapes."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)


def _variables():
    """The variables that say where the processes are; raises where they are no good."""
    if cluster.by_tf_config():
        return cluster.TF_CONFIG
    return cluster.SLURM_COUNT if cluster.by_slurm("tensorflow") > 1 else None


@functools.cache
def _of_several_machines(strategy, variables):
    """One for all runs of a process: the others are met once."""
    import tensorflow as tf

    rule = f"strategy multi_worker needs {cluster.TF_CONFIG} or the variables of srun"
    require(variables or strategy == "tpu", rule, "neither", "Try strategy=auto.")
    try:
        kinds = tf.distribute.cluster_resolver
        if strategy == "tpu":
            resolver = kinds.TPUClusterResolver()
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            return tf.distribute.TPUStrategy(resolver)
        resolver = _slurm_resolver(tf) if variables == cluster.SLURM_COUNT else kinds.TFConfigClusterResolver()
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (ValueError, RuntimeError, LookupError, OSError, ImportError, tf.errors.OpError) as error:
        where = {name: os.environ[name] for name in filter(None, (variables, "TPU_NAME")) if name in os.environ}
        raise ConnectionError(_nobody(f"strategy {strategy}", where, error)) from error


def _slurm_resolver(tf):
    """The tasks of a step as Slurm tells of them, and for this one its GPUs.

    TensorFlow's own hides GPUs by CUDA_VISIBLE_DEVICES, which has been read by then, and finds less than one for each
    task where Slurm has bound them to their own; so it only tells of the tasks.
    """
    kinds, count = tf.distribute.cluster_resolver, cluster.by_slurm("tensorflow")
    tasks = kinds.SlurmClusterResolver(gpus_per_node=count, gpus_per_task=1, auto_set_gpu=False)
    spec = tasks.cluster_spec()
    hosts = [address.rpartition(":")[0] for address in spec.as_dict()["worker"]]
    here, before = (part.count(hosts[tasks.task_id]) for part in (hosts, hosts[: tasks.task_id]))
    mine = _gpus_of_task(tf.config.list_physical_devices("GPU"), before, here)
    tf.config.set_visible_devices(mine, "GPU")
    who = {"task_type": tasks.task_type, "task_id": tasks.task_id, "rpc_layer": "grpc"}
    return kinds.SimpleClusterResolver(spec, num_accelerators={"GPU": len(mine)}, **who)


def _gpus_of_task(seen, task, tasks):
    """Those of the GPUs that a task sees which it takes, as one of so many of its node."""
    if len(seen) >= tasks:
        each = len(seen) // tasks
        return seen[task * each : (task + 1) * each]
    bound = not seen or "CUDA_VISIBLE_DEVICES" in os.environ  # by Slurm, each to its own
    rule = "a node must have a GPU for each of its tasks"
    require(bound, rule, f"{len(seen)} for {tasks}", "Try srun --ntasks-per-node=1.")
    return seen


def _nobody(what, where, error):
    """What is said where a backend does not find other processes or a TPU."""
    stated = ", ".join(f"{name}={value}" for name, value in where.items()) or "no variables"
    reason = " ".join(str(error).split())[:200]
    return f"{what} could not start. Received: {stated}; {reason}"


def _strategy_of_the_machine(tf):
    if _variables():
        return "multi_worker"
    return "tpu" if "TPU_NAME" in os.environ or tf.config.list_physical_devices("TPU") else "auto"


def _logical_cpus(tf, count):
    """That many of the one CPU, where nothing has been computed yet."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    with contextlib.suppress(RuntimeError):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return tf.config.list_logical_devices("CPU")


def _of_jax(count):
    import jax

    who = cluster.by_keras()
    if (who or cluster.by_slurm("jax") > 1) and not jax.distributed.is_initialized():  # the others are met once
        try:
            # what `keras.distribution.initialize` does, but for its seeds: they would import TensorFlow
            jax.distributed.initialize(*(who or ()), heartbeat_timeout_seconds=HEARTBEAT)
        except (ValueError, RuntimeError) as error:
            names = cluster.KERAS if who else cluster.SLURM["jax"]
            where = {name: os.environ[name] for name in names}
            raise ConnectionError(_nobody("a run of several processes", where, error)) from error
    if count and count > 1:
        with contextlib.suppress(RuntimeError):  # of JAX, where something has been computed already
            jax.config.update("jax_num_cpu_devices", count)
    there = [jax.local_devices(i) for i in range(jax.process_count())]
    kind, counts = there[0][0].platform, [len(local) for local in there]
    wanted = count or (1 if kind == "cpu" else counts[0])
    hint = "Hide some, or give all of them the same devices=."
    require(len(set(counts)) == 1, "all processes must have as many devices", ", ".join(map(str, counts)), hint)
    if wanted == 1 and jax.process_count() == 1:
        return OneDevice()
    devices = Mesh([device for local in there for device in local[:wanted]])
    if wanted > counts[0]:
        devices.fail()  # the others may have asked for fewer
        raise _too_many(wanted, counts[0], f"{kind} devices")
    return devices
