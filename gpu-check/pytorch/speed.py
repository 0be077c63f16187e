"""Times SegFace's networks in PyTorch, eager and by torch.compile, each launch by launch and as a CUDA graph: photo tensor to label map.

One process for each network compiles while the device is left to others; after `measure` comes on standard input they are timed one at
a time, so that none disturbs another. Every result is a line of JSON. A network that cannot be compiled, captured or held in memory is
a line that says so.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import warnings

BEGIN = time.monotonic()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="mobilenet,swin_base,convnext_base,resnet,efficientnet,swinv2_base,swinv2_small,swinv2_tiny,convnext_small,convnext_true_tiny")
    parser.add_argument("--precisions", default="bf16,f16")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--workers", type=int, default=0, help="processes at a time; 0 for half the cores, at most one for each network")
    parser.add_argument("--prepare-seconds", type=float, default=240, help="what is not compiled by then is measured eager only")
    parser.add_argument("--seconds", type=float, default=100, help="for measuring")
    parser.add_argument("--once", action="store_true", help="one run each, where times mean nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def emit(**record):
    print(json.dumps(record), flush=True)


# ---- a worker: one network

def worker(args):
    warnings.filterwarnings("ignore")
    if args.device == "cuda":
        # The tests that run at the same time have limits.
        os.nice(5)
    # Inductor's own pool of compilers, shared by as many processes as there are networks.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    import torch

    from networks import SegFace, network_input

    torch.set_grad_enabled(False)
    if args.device == "cpu":
        torch.set_num_threads(1)
    backbone, deadline = args.networks, BEGIN + args.prepare_seconds
    dtypes = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
    configurations = [(p, int(b)) for p in args.precisions.split(",") for b in args.batches.split(",")]
    networks, prepared = {}, []

    def about(precision, batch, **more):
        return {"network": backbone, "precision": precision, "batch": batch, "size": args.size, **more}

    def labels_of(net):
        return lambda x: net(x).argmax(1).to(torch.uint8)

    for precision, batch in configurations:
        if precision not in networks:
            networks[precision] = SegFace(backbone, dtypes[precision], args.device).eval()
        eager, compiled, reason = labels_of(networks[precision]), None, None
        x = network_input(batch, args.size, dtypes[precision], args.device)
        try:
            eager(x)
            if time.monotonic() > deadline:
                reason = f"not compiled within {args.prepare_seconds:.0f} s"
            else:
                compiled = torch.compile(labels_of(networks[precision]), backend=args.backend, dynamic=False, fullgraph=True)
                compiled(x)
        except Exception as error:
            compiled, reason = None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
        prepared.append((precision, batch, eager, compiled, reason))
        del x
        if args.device == "cuda":
            torch.cuda.empty_cache()
    emit(record="prepared", network=backbone, seconds=round(time.monotonic() - BEGIN, 1))

    line = sys.stdin.readline().split()
    if not line:
        return
    stop = time.monotonic() + float(line[1])
    for precision, batch, eager, compiled, reason in prepared:
        if time.monotonic() > stop:
            emit(record="torch-missing", reason="not reached in time", **about(precision, batch))
            continue
        x = network_input(batch, args.size, dtypes[precision], args.device)
        for mode, function in (("eager", eager), ("compiled", compiled)):
            if function is None:
                emit(record="torch-missing", mode=mode, reason=reason, **about(precision, batch))
                continue
            try:
                plain, graph = measure(torch, function, x, args)
                emit(record="torch", mode=mode, milliseconds=plain, graph_ms=graph, **about(precision, batch))
            except Exception as error:
                emit(record="torch-missing", mode=mode, reason=f"{type(error).__name__}: {error}"[:300], **about(precision, batch))
        del x
        if args.device == "cuda":
            torch.cuda.empty_cache()


def measure(torch, function, x, args):
    """Milliseconds of a run: launch by launch, and as a CUDA graph (None without a GPU)."""
    plain = timed(torch, lambda: function(x), args)
    if args.device != "cuda":
        return plain, None
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function(x)
    replayed = timed(torch, graph.replay, args)
    del kept, graph
    return plain, replayed


def timed(torch, run, args):
    """Median of the device's own times of runs that follow one another."""
    if args.device != "cuda":
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) * 1e3

    def rounds(count):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            run()
            event.record()
        torch.cuda.synchronize()
        times = sorted(a.elapsed_time(b) for a, b in zip(events, events[1:]))
        return times[len(times) // 2]

    first = rounds(3)
    return rounds(1 if args.once else max(5, min(500, int(150 / max(first, 1e-3)))))


# ---- the parent: starts workers, lets them measure one at a time

class Child:
    def __init__(self, args, network):
        self.network, self.lines, self.prepared, self.ended = network, [], threading.Event(), threading.Event()
        command = [sys.executable, __file__, "--worker", "--networks", network]
        for name in ("precisions", "batches", "size", "device", "backend", "prepare-seconds"):
            command += [f"--{name}", str(getattr(args, name.replace("-", "_")))]
        command += ["--once"] if args.once else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        self.errors = []
        threading.Thread(target=self.read_errors, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            if '"prepared"' in line:
                self.prepared.set()
            print(line, end="", flush=True)
        self.process.wait()
        self.prepared.set()
        self.ended.set()

    def read_errors(self):
        for line in self.process.stderr:
            self.errors = (self.errors + [line.rstrip()])[-5:]

    def measure(self, seconds):
        """Lets it measure for so long; says whether it ended by itself and well."""
        try:
            self.process.stdin.write(f"measure {seconds}\n")
            self.process.stdin.flush()
        except OSError:
            pass
        if not self.ended.wait(seconds + 30):
            self.process.kill()
            return "stopped after its time"
        code = self.process.returncode
        return None if code == 0 else f"ended with {code}: {' | '.join(self.errors[-3:])}"


def room():
    """How many networks the device's memory holds beside ours: 6 GB each."""
    try:
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        said = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
        return max(1, int(said.split()[0]) // 6000)
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return 4


def parent(args):
    networks = args.networks.split(",")
    workers = args.workers or max(1, min(len(networks), (os.cpu_count() or 1) // 2, room()))
    go, said = threading.Event(), []
    threading.Thread(target=lambda: (said.append(sys.stdin.readline()), go.set()), daemon=True).start()
    waves = [networks[i : i + workers] for i in range(0, len(networks), workers)]
    failed, end = False, None
    for wave in waves:
        if end and time.monotonic() > end:
            for network in wave:
                emit(record="torch-missing", network=network, reason="not reached in time")
            continue
        children = [Child(args, network) for network in wave]
        for child in children:
            # A wave's compilers stop by themselves; one that hangs is not waited for.
            child.prepared.wait(max(1.0, BEGIN + args.prepare_seconds + 60 - time.monotonic()) if wave is waves[0] else args.prepare_seconds)
        go.wait()
        if not said[0]:
            # Whoever started this is gone.
            for child in children:
                child.process.kill()
            sys.exit(1)
        end = end or time.monotonic() + args.seconds
        for index, child in enumerate(children):
            share = max(0.0, end - time.monotonic()) / (len(children) - index)
            reason = child.measure(share) if child.prepared.is_set() else "did not compile in time"
            if reason:
                failed = True
                child.process.kill()
                emit(record="torch-missing", network=child.network, reason=reason[:500])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    options = arguments()
    worker(options) if options.worker else parent(options)
