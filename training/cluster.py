"""What the environment says about the processes of a run: TF_CONFIG, KERAS_DISTRIBUTION_* or Slurm's variables."""

import json
import os

from training.fields import require

TF_CONFIG = "TF_CONFIG"
TF_CONFIG_EXAMPLE = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
KERAS = tuple(f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
SLURM_COUNT = "SLURM_STEP_NUM_TASKS"
SLURM = {  # what each backend reads of it
    "tensorflow": (SLURM_COUNT, "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"),
    "jax": (SLURM_COUNT, "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_LOCALID"),
}
NUMBERS = {SLURM_COUNT, "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_LOCALID"}
ALONE = "Unset it to train in one process."


def by_tf_config():
    """(addresses of the workers, number of this one), or None where the variable is not set."""
    text = os.environ.get(TF_CONFIG)
    if text is None:
        return None
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        workers, number = cluster["worker"], int(task["index"])
        right = set(cluster) == {"worker"} and task["type"] == "worker" and isinstance(workers, list)
        right = right and 0 <= number < len(workers) and all(map(_is_address, workers))
    except (ValueError, LookupError, TypeError):
        right = False
    require(right, f"{TF_CONFIG} must be {TF_CONFIG_EXAMPLE}, of workers alone", text, ALONE)
    return workers, number


def by_keras():
    """(address of the first process, how many there are, number of this one), or None where no variable is set."""
    given = {name: os.environ[name] for name in KERAS if name in os.environ}
    if not given:
        return None
    rule = f"{', '.join(KERAS)} must be set together"
    require(len(given) == len(KERAS), rule, ", ".join(given), ALONE.replace("it", "them"))
    addresses, *numbers = given.values()
    addresses = addresses.split(",")
    whole = all(number.isdecimal() for number in numbers)
    count, number = map(int, numbers) if whole else (0, 0)
    right = number < count and len(addresses) in (1, count) and all(map(_is_address, addresses))
    rule = f"{KERAS[0]} must be HOST:PORT of the first process or of all, and {KERAS[2]} less than {KERAS[1]}"
    require(right, rule, ", ".join(given.values()))
    return addresses[0], count, number


def by_slurm(backend):
    """How many tasks a step of Slurm has, and one outside of any.

    Raises:
        ValueError: several, and a variable that `backend` needs is lacking or no number.
    """
    count = os.environ.get(SLURM_COUNT, "1")
    if count == "1":
        return 1
    needed = SLURM[backend]
    bad = [f"{name}={os.environ.get(name)}" for name in needed if not _is_right(name)]
    rule = f"{', '.join(needed)} must describe a step of Slurm, as srun sets them"
    require(not bad, rule, ", ".join(bad), f"Unset {SLURM_COUNT} to train in one process.")
    return int(count)


def _is_right(name):
    value = os.environ.get(name, "")
    return value.isdecimal() if name in NUMBERS else bool(value)


def _is_address(text):
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isdecimal()


def several():
    """The variables that speak of several processes, whatever backend they are for."""
    try:
        tasks = sum(map(len, json.loads(os.environ[TF_CONFIG])["cluster"].values()))
    except (ValueError, LookupError, TypeError, AttributeError):
        tasks = 1
    counts = {TF_CONFIG: str(tasks), **{name: os.environ.get(name, "1") for name in (KERAS[1], SLURM_COUNT)}}
    return [name for name, count in counts.items() if count != "1"]


def require_one_process(what, read=()):
    """Raises where variables say that other processes do the same as this one, and `what` would not know of them.

    Args:
        read: variables that it does know.
    """
    found = several()
    if found and not set(found) & set(read):
        hint = "Start it without srun." if found[0] == SLURM_COUNT else f"Unset {found[0]}."
        rule = f"{what} runs in one process" + (f" without {' or '.join(read)}" if read else "")
        require(False, rule, f"{found[0]}={os.environ[found[0]]}", hint)
