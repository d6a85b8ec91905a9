"""Inference against what a user would pick instead, on this machine: `python -m benchmarks.inference`."""

from benchmarks.contest import parser, run
from benchmarks.peers import everybody

if __name__ == "__main__":
    options = parser("Logits of a batch, through predict_on_batch.", batch=[1, 16]).parse_args()
    run("inference", everybody("predict", options), options)
