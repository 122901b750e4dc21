"""The kernel's walls around a program, put up by the process that is to stay inside.

Each function puts up one wall and says whether it stands; which ones can depends on kernel, user
and container. Linux calls that Python 3.11 does not have go through ctypes; the system call filter
is libseccomp's. Sources: namespaces(7), pivot_root(2), landlock(7), seccomp(2), capabilities(7).
"""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterable

NEW_FILES, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_READ_ONLY, _NO_SUID, _NO_DEV, _NO_EXEC, _REMOUNT, _BIND, _REC, _PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
_DETACH = 2
_DEATH_SIGNAL, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 36, 38
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_ALONE = ("clone", "clone3", "fork", "vfork")
_DENIED = """
socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg
execve execveat ptrace process_vm_readv process_vm_writev process_madvise kcmp
kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd pidfd_send_signal
unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen fsmount mount_setattr
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat
setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr mknod mknodat
bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
keyctl add_key request_key memfd_create memfd_secret shmget shmat semget msgget mq_open
prlimit64 setrlimit open_by_handle_at name_to_handle_at fanotify_init inotify_init1
init_module finit_module kexec_load reboot swapon acct quotactl
"""
"""Refused by :func:`seccomp`. Changing modes and times is here because Landlock allows it."""


def on_linux() -> bool:
    """Whether the kernel is one whose walls are known here."""
    return sys.platform == "linux"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _called(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, value: int) -> None:
    _called(_libc().prctl(option, value, 0, 0, 0), "prctl")


def guard_children() -> None:
    """Adopt what its descendants leave behind, and end when the parent does."""
    if on_linux():
        _prctl(_SUBREAPER, 1)
        _prctl(_DEATH_SIGNAL, 9)


def close_up() -> None:
    """Let nobody of the same user look into this process, and let it gain no rights by exec.

    After a change of user: such a change takes both back.
    """
    if on_linux():
        _prctl(_DUMPABLE, 0)
        _prctl(_DEATH_SIGNAL, 9)
        _prctl(_NO_NEW_PRIVS, 1)


def separate() -> bool:
    """Take a network, process numbers, mounts and IPC of one's own; children are inside.

    Root takes them directly, anybody else through a user namespace, where that is allowed.
    """
    if not on_linux():
        return False
    libc = _libc()
    flags = NEW_FILES | NEW_IPC | NEW_PIDS | NEW_NET
    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and libc.unshare(flags) == 0:
        return True
    if libc.unshare(flags | NEW_USER) != 0:
        return False
    with contextlib.suppress(OSError):  # without a map the user is nobody, who may do even less
        for file, line in (
            ("uid_map", f"{uid} {uid} 1"),
            ("setgroups", "deny"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{file}", "w") as out:
                out.write(line)
    return True


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = [None if x is None else x.encode() for x in (source, target, kind)]
    _called(
        _libc().mount(*encoded, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}"
    )


def libraries() -> list[str]:
    """Folders that an interpreter without packages reads from."""
    own = os.path.dirname(os.__file__)
    found = [path for path in _LIBRARIES if os.path.isdir(path)]
    inside = any(os.path.realpath(own).startswith(os.path.realpath(path) + "/") for path in found)
    return found if inside else [*found, own]


def _show(root: str, path: str) -> None:
    """Make a folder visible below the new root, for reading only."""
    target = root + path
    if os.path.islink(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)
        return
    os.makedirs(target, exist_ok=True)
    _mount(path, target, None, _BIND | _REC)
    kept = os.statvfs(path).f_flag & _NO_EXEC
    _mount(None, target, None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEV | kept)


def furnish(root: str, size: int) -> bool:
    """Replace the file system by one with Python's libraries and an empty /tmp, and go there.

    Args:
        root: an empty folder to build it on.
        size: bytes that all files in /tmp may hold together; they live in memory.

    Returns:
        Whether it was done; if not, this process still sees the file system that it saw.
    """
    try:
        _mount(None, "/", None, _REC | _PRIVATE)
        _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEV, "size=1m,mode=755")
        for path in libraries():
            _show(root, path)
        for name in ("tmp", "old", "dev"):
            os.mkdir(f"{root}/{name}")
        with open(f"{root}/dev/null", "w"):
            pass
        _mount("/dev/null", f"{root}/dev/null", None, _BIND)
        limits = f"size={size},nr_inodes=1000,mode=777"
        _mount("tmpfs", f"{root}/tmp", "tmpfs", _NO_SUID | _NO_DEV | _NO_EXEC, limits)
        _called(_libc().pivot_root(root.encode(), f"{root}/old".encode()), "pivot_root")
    except OSError:
        return False
    os.chdir("/tmp")
    _called(_libc().umount2(b"/old", _DETACH), "umount2")
    os.rmdir("/old")
    _mount(None, "/", None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEV)
    return True


def become(uid: int, *, private: bool) -> bool:
    """Stop being root: become a user that nobody else is, or nobody.

    Args:
        uid: of the user that nobody is.
        private: this process has a file system of its own, in which all may read the libraries.

    Returns:
        Whether it is one. A process that is not root cannot be; and root stays root where others
        could not read Python's libraries.
    """
    if os.getuid() != 0 or not (private or _public(os.__file__)):
        return False
    for candidate in (uid, 65534):
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(candidate, candidate, candidate)
            os.setresuid(candidate, candidate, candidate)
            return True
    return False


def _public(path: str) -> bool:
    """Whether every user may reach a file."""
    folder = os.path.dirname(os.path.realpath(path))
    while os.stat(folder).st_mode & 1:
        if folder == "/":
            return True
        folder = os.path.dirname(folder)
    return False


def drop_capabilities() -> None:
    """Give up every right beyond those of a plain user, for good."""
    if on_linux():
        head = (ctypes.c_uint32 * 2)(0x20080522, 0)
        _called(_libc().capset(head, (ctypes.c_uint32 * 6)()), "capset")


def limit(
    *, cpu_seconds: int, memory_bytes: int, file_bytes: int, open_files: int, processes: int
) -> None:
    """Set resource limits, hard and soft.

    Args:
        cpu_seconds: processor time, after which the kernel kills.
        memory_bytes: address space.
        file_bytes: longest file.
        open_files: open at once.
        processes: of this user, threads included.
    """
    wanted = {
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_FSIZE": file_bytes,
        "RLIMIT_NOFILE": open_files,
        "RLIMIT_NPROC": processes,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    for name, value in wanted.items():
        if name in resource.__dict__:  # not every system has them all
            kind = resource.__dict__[name]
            highest = resource.getrlimit(kind)[1]
            if highest != resource.RLIM_INFINITY:
                value = min(value, highest)
            with contextlib.suppress(ValueError, OSError):  # macOS refuses an address space limit
                resource.setrlimit(kind, (value, value))


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # by version; the first so many bits


def landlock(own: str, readable: Iterable[str]) -> bool:
    """Refuse every file but those in one folder, and the reading of others; TCP and signals too.

    Args:
        own: the folder in which everything is allowed.
        readable: folders that may be read.
    """
    if not on_linux():
        return False
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    network = 3 if version >= 4 else 0  # bind and connect
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals to the outside
    handled = (ctypes.c_uint64 * 3)(rights, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(_CREATE_RULESET, handled, size, 0)
    if rules < 0:
        return False
    allowed = [(own, rights), *((path, _READ_FILE | _READ_DIR) for path in readable)]
    for path, access in allowed:
        if not os.path.isdir(path):
            continue
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        below = access.to_bytes(8, sys.byteorder) + folder.to_bytes(4, sys.byteorder)
        _called(libc.syscall(_ADD_RULE, rules, 1, below, 0), "landlock_add_rule")
        os.close(folder)
    stands = bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    os.close(rules)
    return stands


def seccomp(*, forks: bool) -> bool:
    """Refuse system calls for network, processes, other processes' memory and new mounts.

    Args:
        forks: whether processes and threads may be started.
    """
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    allow, refuse = 0x7FFF0000, 0x00050001  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
    rules = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(allow)))
    for name in (*_DENIED.split(), *(() if forks else _ALONE)):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # negative: this machine has no such call
            library.seccomp_rule_add(rules, ctypes.c_uint32(refuse), number, 0)
    stands = bool(library.seccomp_load(rules) == 0)
    library.seccomp_release(rules)
    return stands
