# SPDX-License-Identifier: Apache-2.0
"""Docker's default seccomp profile as data, and its resolution for a container's capabilities and this machine."""

from collections.abc import Collection

from orlop.oci.runtime import Seccomp, SeccompArg, SeccompSyscall


class _Rule:
    """System calls with an action, and the conditions under which the rule is part of the profile."""

    __slots__ = ("action", "arg", "capability", "errno", "kernel", "names", "not_on", "only_on", "without")

    def __init__(
        self,
        names: str,
        *,
        action: str = "SCMP_ACT_ALLOW",
        errno: int | None = None,
        arg: tuple[int, str, int] | None = None,
        only_on: tuple[str, ...] = (),
        not_on: tuple[str, ...] = (),
        capability: str = "",
        without: str = "",
        kernel: tuple[int, int] = (0, 0),
    ) -> None:
        self.names = names.split()
        self.action = action
        self.errno = errno
        self.arg = arg
        self.only_on = only_on
        self.not_on = not_on
        self.capability = capability
        self.without = without
        self.kernel = kernel


_ARCHITECTURES = {
    "amd64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "arm64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
    "loong64": ["SCMP_ARCH_LOONGARCH64"],
    "s390x": ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
    "mips64": ["SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32"],
    "mips64n32": ["SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64"],
    "mipsel64": ["SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32"],
    "mipsel64n32": ["SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64"],
}

_EPERM = 1

_RULES = (
    _Rule("""
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd
getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid
gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get
ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek
lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity
sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send
sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area
set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64
ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice
wait4 waitid waitpid write writev
"""),
    _Rule("process_vm_readv process_vm_writev ptrace", kernel=(4, 8)),
    _Rule("socket", arg=(0, "SCMP_CMP_LT", 38)),
    _Rule("socket", arg=(0, "SCMP_CMP_EQ", 39)),
    _Rule("socket", arg=(0, "SCMP_CMP_GT", 40)),
    _Rule("personality", arg=(0, "SCMP_CMP_EQ", 0)),
    _Rule("personality", arg=(0, "SCMP_CMP_EQ", 8)),
    _Rule("personality", arg=(0, "SCMP_CMP_EQ", 131072)),
    _Rule("personality", arg=(0, "SCMP_CMP_EQ", 131080)),
    _Rule("personality", arg=(0, "SCMP_CMP_EQ", 4294967295)),
    _Rule("sync_file_range2 swapcontext", only_on=("ppc64le",)),
    _Rule(
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        only_on=("arm", "arm64"),
    ),
    _Rule("arch_prctl", only_on=("amd64", "x32")),
    _Rule("modify_ldt", only_on=("amd64", "x32", "x86")),
    _Rule("s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr", only_on=("s390", "s390x")),
    _Rule("riscv_flush_icache", only_on=("riscv64",)),
    _Rule("open_by_handle_at", capability="CAP_DAC_READ_SEARCH"),
    _Rule(
        """
bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
""",
        capability="CAP_SYS_ADMIN",
    ),
    _Rule("clone", arg=(0, "SCMP_CMP_MASKED_EQ", 0x7E020000), not_on=("s390", "s390x"), without="CAP_SYS_ADMIN"),
    _Rule("clone", arg=(1, "SCMP_CMP_MASKED_EQ", 0x7E020000), only_on=("s390", "s390x"), without="CAP_SYS_ADMIN"),
    _Rule("clone3", action="SCMP_ACT_ERRNO", errno=38, without="CAP_SYS_ADMIN"),
    _Rule("reboot", capability="CAP_SYS_BOOT"),
    _Rule("chroot", capability="CAP_SYS_CHROOT"),
    _Rule("delete_module init_module finit_module", capability="CAP_SYS_MODULE"),
    _Rule("acct", capability="CAP_SYS_PACCT"),
    _Rule(
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace", capability="CAP_SYS_PTRACE"
    ),
    _Rule("iopl ioperm", capability="CAP_SYS_RAWIO"),
    _Rule("settimeofday stime clock_settime clock_settime64", capability="CAP_SYS_TIME"),
    _Rule("vhangup", capability="CAP_SYS_TTY_CONFIG"),
    _Rule("get_mempolicy mbind set_mempolicy set_mempolicy_home_node", capability="CAP_SYS_NICE"),
    _Rule("syslog", capability="CAP_SYSLOG"),
    _Rule("bpf", capability="CAP_BPF"),
    _Rule("perf_event_open", capability="CAP_PERFMON"),
)


def default_profile(capabilities: Collection[str], architecture: str, kernel: tuple[int, int]) -> Seccomp:
    """The default profile for a container with these (bounding) capabilities.

    `architecture` is Go's name of it (amd64, arm64 …), `kernel` the running kernel's version.
    """
    calls = []
    for rule in _RULES:
        if (
            (rule.only_on and architecture not in rule.only_on)
            or architecture in rule.not_on
            or (rule.capability and rule.capability not in capabilities)
            or (rule.without and rule.without in capabilities)
            or kernel < rule.kernel
        ):
            continue
        args = []
        if rule.arg:
            index, operator, value = rule.arg
            args = [SeccompArg(index=index, value=value, op=operator)]
        calls.append(SeccompSyscall(names=rule.names, action=rule.action, errno_ret=rule.errno, args=args))
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=_EPERM,
        architectures=_ARCHITECTURES.get(architecture, []),
        syscalls=calls,
    )
