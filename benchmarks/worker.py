"""The side of a contestant: builds its task, then runs one step for every line that it gets."""

import json
import os
import sys
import time

from benchmarks.contestants import LIBRARIES


def main(order):
    # What libraries print goes elsewhere: standard output is the line to the contest.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**reply):
        channel.write(json.dumps(reply) + "\n")
        channel.flush()

    start = time.perf_counter()
    try:
        step, facts = LIBRARIES[order["library"]](**order["task"])
        step()
    except (ImportError, RuntimeError) as error:
        say(error=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
        return
    first = time.perf_counter() - start
    step()  # some compile a second time, for states that come out of the first step
    step()
    say(seconds=first, **facts)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        say(seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
