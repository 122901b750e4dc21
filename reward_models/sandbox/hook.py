"""The innermost wall: an audit hook (PEP 578) that refuses what a program has no business with.

It says plainly what is refused, and it is all there is on systems without the kernel's walls. Code
that sets out to get around a hook in its own process can, so it is never counted as containment.
"""

import os
import sys
from typing import Any

_REFUSED = (
    "ctypes.",
    "fcntl.",
    "ftplib.",
    "http.",
    "imaplib.",
    "mmap.",
    "poplib.",
    "shutil.",
    "signal.pthread_kill",
    "smtplib.",
    "socket.",
    "subprocess.",
    "syslog.",
    "telnetlib.",
    "urllib.",
    "webbrowser.",
    "winreg.",
)
_REFUSED_OS = {
    "chflags",
    "chroot",
    "exec",
    "fork",
    "forkpty",
    "kill",
    "killpg",
    "link",
    "posix_spawn",
    "putenv",
    "spawn",
    "startfile",
    "symlink",
    "system",
    "unsetenv",
}
_CHANGES = {"chmod", "chown", "mkdir", "remove", "rename", "rmdir", "truncate", "utime"}


def install(own: str, readable: list[str], *, forks: bool) -> None:
    """Refuse sockets, processes, foreign code, and files outside of a folder; for good.

    Args:
        own: the only folder in which files may be changed.
        readable: folders that may be read besides.
        forks: whether processes may be started.
    """
    real = os.path.realpath
    own = real(own)
    roots = [own, *map(real, readable)]
    refused_os = _REFUSED_OS - ({"fork", "kill", "killpg"} if forks else set())
    busy = False  # finding out where a path leads raises events of its own

    def within(path: Any, folders: list[str]) -> bool:
        if isinstance(path, int):
            return True  # a file that is open already
        full = real(os.fsdecode(path))
        return any(full == root or full.startswith(root + os.sep) for root in folders)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        name = event.removeprefix("os.")
        if event.startswith(_REFUSED) or (name != event and name in refused_os):
            raise PermissionError(f"{event} is not allowed here")
        paths: list[Any] = []
        folders = [own]
        if event == "open" and args[0] is not None:
            mode, flags = args[1], args[2] or 0
            reads = not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if isinstance(mode, str) and set(mode) & set("wax+"):
                reads = False
            paths, folders = [args[0]], roots if reads else folders
        elif event in ("os.listdir", "os.scandir"):
            paths, folders = [args[0] or "."], roots
        elif name != event and name in _CHANGES:
            paths = [path for path in args[:2] if isinstance(path, (str, bytes, os.PathLike))]
        busy = True
        try:
            for path in paths:
                if not within(path, folders):
                    raise PermissionError(f"{event} of {path!r} is not allowed here")
        finally:
            busy = False

    sys.addaudithook(hook)
