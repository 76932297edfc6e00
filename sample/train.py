"""Train a small network on handwritten digits, on as many ranks as there are.

The data comes with scikit-learn, so nothing is downloaded: 1,797 real 8x8 images, a fifth of them kept for
the test. It reaches over 95 % in well under a minute on two CPU cores.

    python train.py                                   one process
    torchrun --nproc-per-node 2 train.py              two ranks on this machine
    rl torch-launch --nproc-per-node 2 train.py       two ranks on every server
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

CHECKPOINT = Path("checkpoints/last.pt")  # under the folder the script is started in
RUN_ID = os.environ.get("RL_RUN_ID", "")  # the same in all attempts of a launch (rl --max-restarts)
ATTEMPT = int(os.environ.get("RL_ATTEMPT", "0"))
SPLIT_SEED = 0  # which images are kept for the test: never changes, so that runs can be compared


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    lr = float(os.environ.get("LR", "0.003"))  # so that a launch can set it for all ranks
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=lr, help="default: LR in the environment, or 0.003")
    parser.add_argument("--batch-size", type=int, default=32, help="images per rank and step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help=f"go on from the newest {CHECKPOINT}")
    parser.add_argument("--every-node", action="store_true", help=f"keep {CHECKPOINT} on each node, not on "
                        "rank 0's alone: then training goes on when rank 0's is lost (rl --spare)")
    parser.add_argument("--fail-rank", type=int, metavar="N", help="rank N fails, in attempt 0")
    parser.add_argument("--fail-epoch", type=int, default=1, metavar="EPOCH", help="... after this epoch")
    parser.add_argument("--fail-code", type=int, metavar="CODE", help="... with this exit code")
    parser.add_argument("--hang-rank", type=int, metavar="N", help="rank N hangs after its first epoch")
    return parser.parse_args()


def start_process_group() -> None:
    """Join the other ranks: torchrun sets RANK, WORLD_SIZE, MASTER_ADDR ... Without it, be a group of one."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def choose_device() -> tuple[torch.device, dist.ProcessGroup | None]:
    """Return this rank's device, and the group that its gradients travel in (None: the default one, gloo).

    The ranks agree first: NCCL works only when every one of them has a GPU of its own, and a rank knows only
    about its own node.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    has_gpu = torch.tensor(int(torch.cuda.device_count() > local_rank))
    dist.all_reduce(has_gpu, op=dist.ReduceOp.MIN)
    if not has_gpu.item():
        torch.set_num_threads(1)  # the network is too small to share out, and the ranks share the cores
        return torch.device("cpu"), None
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device, dist.new_group(backend="nccl")


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the test images; the same split on every rank."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0
    labels = torch.tensor(digits, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )


def train_epoch(model: nn.Module, optimizer: Optimizer, loader: DataLoader, device: torch.device) -> float:
    """Go once over this rank's share of the training images. Returns the mean loss over all ranks."""
    model.train()
    total = torch.zeros(2)  # sum of losses, images
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()  # DistributedDataParallel averages the gradients over the ranks meanwhile
        optimizer.step()
        total += torch.tensor([loss.item() * len(labels), len(labels)])
    dist.all_reduce(total)
    return (total[0] / total[1]).item()


@torch.no_grad()
def test_accuracy(model: DistributedDataParallel, data: TensorDataset, device: torch.device) -> float:
    """Return the share of test images that are named right. Each rank looks at its own part of them."""
    model.eval()
    images, labels = (part[dist.get_rank() :: dist.get_world_size()] for part in data.tensors)
    # .module, since the parts differ in size: no collective may run inside
    right = (model.module(images.to(device)).argmax(dim=1).cpu() == labels).sum()
    total = torch.stack([right, torch.tensor(len(labels))])
    dist.all_reduce(total)
    return (total[0] / total[1]).item()


def save_checkpoint(model: DistributedDataParallel, optimizer: Optimizer, epoch: int) -> None:
    """Write the checkpoint aside, then put it in place: a run that dies here leaves the last one whole."""
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    aside = CHECKPOINT.with_suffix(f".{dist.get_rank()}.tmp")  # nodes may share their disk
    state = {
        "epoch": epoch, "run_id": RUN_ID,
        "model": model.module.state_dict(), "optimizer": optimizer.state_dict(),
    }
    torch.save(state, aside)
    aside.replace(CHECKPOINT)


def keeps_checkpoint(args: argparse.Namespace) -> bool:
    """Whether this rank writes the checkpoint: rank 0, with --every-node the first of each node."""
    return dist.get_rank() == 0 or (args.every_node and os.environ.get("LOCAL_RANK") == "0")


def load_checkpoint(model: DistributedDataParallel, optimizer: Optimizer, args: argparse.Namespace) -> int:
    """Load the newest checkpoint that a node has on every rank: of an earlier attempt of this run, with
    --resume of any. Returns the last epoch done; 0 when there is none.

    It travels from the rank that has it. Ranks that each looked for a file of their own would start at
    different epochs and wait for each other for ever: not every node has one, or the same.
    """
    own = None
    if keeps_checkpoint(args) and CHECKPOINT.exists():
        own = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
        own = own if args.resume or own.get("run_id") == RUN_ID else None
    epochs = [0] * dist.get_world_size()
    dist.all_gather_object(epochs, own["epoch"] if own else 0)
    newest = epochs.index(max(epochs))
    box = [own if dist.get_rank() == newest else None]
    dist.broadcast_object_list(box, src=newest)
    checkpoint = box[0]
    if checkpoint is None:
        return 0
    model.module.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["epoch"]


def fail(args: argparse.Namespace) -> None:
    """End this rank as a real failure would: with a traceback, or with the exit code that was asked for."""
    if args.fail_code is None:
        raise RuntimeError(f"rank {dist.get_rank()} fails, as --fail-rank asks")
    text = f"rank {dist.get_rank()} exits with {args.fail_code}, as --fail-rank asks"
    print(text, file=sys.stderr, flush=True)
    # At once: now and then gloo's threads abort an interpreter that ends in the middle of training.
    os._exit(args.fail_code)


def say_where_on_request() -> None:
    """Let rl ask where this rank is, should the training hang (rl torch-launch --stall-timeout).

    The file tells rl that this process takes SIGUSR1, which would end one that does not expect it.
    """
    if "RL_JOB_DIR" in os.environ:
        folder = Path(os.environ["RL_JOB_DIR"], "stacks")
        folder.mkdir(exist_ok=True)
        file = (folder / f"pid-{os.getpid()}.txt").open("w")  # kept open
        faulthandler.register(signal.SIGUSR1, file=file)


def log(text: str) -> None:
    """Print on rank 0 alone, and at once: output that waits in a buffer is no help to who follows the job."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def train(args: argparse.Namespace) -> None:
    device, gradient_group = choose_device()
    log(f"{dist.get_world_size()} x {device.type}, lr {args.lr:g}, batch size {args.batch_size} on each rank")

    torch.manual_seed(args.seed)  # the same weights everywhere
    train_data, test_data = load_data()
    model = DistributedDataParallel(build_model().to(device), process_group=gradient_group)
    optimizer = AdamW(model.parameters(), lr=args.lr)
    sampler = DistributedSampler(train_data, seed=args.seed)
    loader = DataLoader(train_data, batch_size=args.batch_size, sampler=sampler)

    done = load_checkpoint(model, optimizer, args) if args.resume or ATTEMPT else 0
    if done:
        log(f"resuming from epoch {done}, attempt {ATTEMPT}")
    elif args.resume or ATTEMPT:
        log(f"there is no {CHECKPOINT} to go on from: starting from scratch, attempt {ATTEMPT}")

    for epoch in range(done + 1, args.epochs + 1):
        started = time.perf_counter()
        sampler.set_epoch(epoch)  # another order each epoch, and the same one after a resume
        loss = train_epoch(model, optimizer, loader, device)
        accuracy = test_accuracy(model, test_data, device)
        seconds = time.perf_counter() - started
        log(f"epoch {epoch:3d}  loss {loss:.4f}  test accuracy {accuracy:.3f}  {seconds:.2f} s")
        if keeps_checkpoint(args):
            save_checkpoint(model, optimizer, epoch)
        if dist.get_rank() == args.fail_rank and epoch >= args.fail_epoch and ATTEMPT == 0:
            fail(args)
        if dist.get_rank() == args.hang_rank:
            time.sleep(3600)
    log(f"test accuracy {test_accuracy(model, test_data, device):.3f}")


@record  # writes an exception down where torchrun, and rl, find it
def main() -> None:
    args = parse_args()
    say_where_on_request()
    start_process_group()
    train(args)
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # The work is done. Now and then gloo's threads abort a Python that shuts down (SIGABRT), and a job that
    # trained well would count as failed: so leave without the shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
