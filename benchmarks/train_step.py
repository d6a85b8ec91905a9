"""Training steps against what a user would pick instead, on this machine: `python -m benchmarks.train_step`."""

from benchmarks.contest import parser, run
from benchmarks.peers import everybody

if __name__ == "__main__":
    options = parser("Forward, loss, gradients, AdamW, through train_on_batch.", batch=[16])
    options.add_argument("--fit", action="store_true", help="Keras models through model.fit instead")
    options = options.parse_args()
    run("training", everybody("fit" if options.fit else "train", options), options)
