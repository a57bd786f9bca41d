"""Python for tests that need a process of its own, without the seconds that libraries take to import.

`[*warm, ...]` in place of `[sys.executable, ...]` is a command with the same streams, Ctrl-C, limits, exit
code and end; it runs in a child of a server that has imported libraries, but nothing of the package. What
matters while libraries are imported (variables of the environment, threads) is the server's: tests of that
start Python.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

STREAMS = range(3)


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


SERVED_PATHS = len(_paths())  # of the server's `sys.path`, after its own folder; a child has its own


def client(path: str, arguments: list[str]) -> int:
    """What the child's exit code is; ends by the signal that ended the child."""
    import resource

    streams = [fd for fd in STREAMS if _is_open(fd)]
    for _ in range(len(STREAMS) - len(streams)):
        os.open(os.devnull, os.O_RDONLY)  # so that the connection is no stream
    told = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "streams": streams,
        "memory": resource.getrlimit(resource.RLIMIT_AS),
        "interrupted": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        content = json.dumps(told).encode()
        socket.send_fds(connection, [len(content).to_bytes(8, "big")], streams)
        connection.sendall(content)
        with connection.makefile() as answers:
            child = int(answers.readline())
            signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
            code = int(answers.readline())
    if code < 0:
        with contextlib.suppress(OSError):  # of SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _is_open(fd: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(fd)
        return True
    return False


def serve(path: str) -> list[str]:
    """Accepts commands until the one that started it has gone; returns in each child, with its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while listener in select.select([listener, 0], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            return _child(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    sys.exit()


def _child(connection: socket.socket) -> list[str]:
    """Becomes what a new Python is when its code begins; its parent tells how it ends."""
    size, given, *_ = socket.recv_fds(connection, 8, len(STREAMS))
    content = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    child = os.fork()
    if child:
        for fd in given:
            os.close(fd)
        connection.sendall(f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):
            connection.sendall(f"{code}\n".encode())
        os._exit(0)
    connection.close()
    told = json.loads(content)
    _streams(dict(zip(told["streams"], given, strict=True)))
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    _limits(told)
    return told["arguments"]


def _streams(given: dict[int, int]) -> None:
    """Puts them in place; those of the server know of its own files whether one can seek in them."""
    for fd, name in zip(STREAMS, ("stdin", "stdout", "stderr"), strict=True):
        before, stream = getattr(sys, name), None
        if fd in given:
            os.dup2(given[fd], fd)
            os.close(given[fd])
            how = {"encoding": before.encoding, "errors": before.errors, "closefd": False}
            stream = open(fd, "r" if fd == 0 else "w", 1 if fd == 2 else -1, **how)  # noqa: SIM115, PTH123
        else:
            os.close(fd)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _limits(told: dict) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, told["memory"])
    signal.signal(signal.SIGINT, signal.default_int_handler if told["interrupted"] else signal.SIG_IGN)


def program(arguments: list[str]) -> None:
    """Does `-c CODE`, `-m MODULE` or `FILE`, each with its arguments, as the interpreter does."""
    import runpy
    import types

    first = {"-c": "", "-m": str(Path.cwd())}.get(arguments[0], str(Path(arguments[0]).resolve().parent))
    sys.path[:] = [first, *_paths(), *sys.path[1 + SERVED_PATHS :]]
    if arguments[0] == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), vars(main))
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def ended(arguments: list[str]) -> None:
    """Does `program` and ends as the interpreter does, but takes down no module, which takes seconds."""
    import atexit
    import threading

    code = 0
    try:
        program(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            code = 120
            with contextlib.suppress(OSError):
                print(f"Exception ignored\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def libraries() -> list[object]:
    """Imports them, and forgets the package, which mends one of them; gives what it forgot."""
    from timm_diffsens.device import allocator

    allocator.prepare()
    for name in ("torch", "torchvision", "timm", "torch._dynamo", "scipy.stats", "scipy.optimize", "pandas"):
        __import__(name)
    names = [name for name in sys.modules if name.partition(".")[0] == "timm_diffsens"]
    return [sys.modules.pop(name) for name in names]


if __name__ == "__main__":
    socket_path, *rest = sys.argv[1:]
    if rest:
        sys.exit(client(socket_path, rest))
    mended = libraries()  # torch forgets what the package has mended when that is no longer held
    gc.freeze()  # what is collected is copied
    ended(serve(socket_path))
