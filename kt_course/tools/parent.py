"""A command that another command started stops, and saves its training, when that one is gone."""

import _thread
import os
import signal
import threading
import time

import psutil

VARIABLE = "KT_PARENT"  # the process id of the command that started this one


def as_child() -> dict[str, str]:
    """The environment variable that a command sets for the commands that it starts."""
    return {VARIABLE: str(os.getpid())}


def watch_parent(seconds: float = 1.0) -> None:
    """Watch the command that started this one in the background; nothing if there is none."""
    parent = os.environ.get(VARIABLE, "")
    if parent.isdecimal() and int(parent) == os.getppid():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        watch = threading.Thread(target=_stop_after, args=(int(parent), seconds), daemon=True)
        watch.start()


def _stop_after(parent: int, seconds: float) -> None:
    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(seconds)
    _thread.interrupt_main()  # as Ctrl-C does: the training saves its state
    time.sleep(60)
    os._exit(130)
