"""The filter of system calls under which programs run in bubblewrap, as the classic BPF program that the kernel takes.

Namespaces, an unprivileged user and limits hold a program already; the filter takes away what bugs of a kernel are
reached by, and the memory that no limit counts. Numbers: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h; the instructions: seccomp(2) and bpf(4).
"""

import errno
import platform
import struct
from collections.abc import Iterator

ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column below, AUDIT_ARCH
X32 = 0x40000000  # calls of x86_64's other ABI, which have numbers of their own
DENIED = {  # name: (number on x86_64, on aarch64; None where there is none)
    # other namespaces and file systems
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41)},
    **{"chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60)},
    # other processes
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272)},
    **{"pidfd_getfd": (438, 438)},
    # large parts of the kernel that no program here has a use for
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262)},
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "personality": (135, 92)},
    **{"modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None), "syslog": (103, 116)},
    # memory that outlives its map, and so no limit counts
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186)},
    **{"semget": (64, 190), "mq_open": (240, 180)},
    # the machine
    **{"kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "reboot": (169, 142)},
    **{"finit_module": (313, 273), "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225)},
    **{"acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171)},
    **{"clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58)},
}
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
NEW_NAMESPACE = 0x7E020000  # CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET
AF_UNIX = (
    1  # the only family: AF_VSOCK, for one, leads from a virtual machine to its host through any network namespace
)

LOAD, EQUAL, AT_LEAST, ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; of the first argument the low half
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def known() -> bool:
    """Whether there is a filter for this machine."""
    return platform.machine() in ARCHES


def program() -> bytes:
    """The filter for this machine: an array of struct sock_filter, as `bwrap --seccomp` reads it."""
    column, arch = ARCHES[platform.machine()]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions(column, arch))


def instructions(column: int, arch: int) -> Iterator[tuple[int, int, int, int]]:
    """(code, instructions to skip if true, if false, constant)."""
    refuse = ERROR | errno.EPERM
    yield LOAD, 0, 0, ARCH
    yield EQUAL, 1, 0, arch
    yield RETURN, 0, 0, KILL
    yield LOAD, 0, 0, NUMBER
    yield AT_LEAST, 0, 1, X32
    yield RETURN, 0, 0, KILL
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            yield EQUAL, 0, 1, number
            yield RETURN, 0, 0, refuse
    yield EQUAL, 0, 1, CLONE3[column]  # its flags lie in memory, where no filter looks; the C library then takes clone
    yield RETURN, 0, 0, ERROR | errno.ENOSYS
    yield EQUAL, 0, 4, CLONE[column]
    yield LOAD, 0, 0, ARGUMENT
    yield ANY_OF, 0, 1, NEW_NAMESPACE
    yield RETURN, 0, 0, refuse
    yield RETURN, 0, 0, ALLOW
    yield EQUAL, 0, 3, SOCKET[column]
    yield LOAD, 0, 0, ARGUMENT
    yield EQUAL, 1, 0, AF_UNIX
    yield RETURN, 0, 0, refuse
    yield RETURN, 0, 0, ALLOW
