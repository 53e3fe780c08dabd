"""More rows of what a checkpoint carries: see chkpnt_cases, which this runs too."""

import ctypes
import errno
import os
import socket

import chkpnt_cases
from chkpnt_cases import call, case, libc

GHOST_BYTES = 70 << 20  # more than what is allowed without a word


@case
def restartable_sequences():
    """glibc registers one for each thread; the kernel writes the CPU's number there."""
    size = 32
    try:
        offset = ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value
        registered = ctypes.c_uint.in_dll(libc, "__rseq_size").value
    except ValueError:
        registered = 0
    yield
    if not registered:
        return
    libc.pthread_self.restype = ctypes.c_void_p
    area = ctypes.c_void_p(libc.pthread_self() + offset)
    number = {"x86_64": 334, "aarch64": 293}[os.uname().machine]
    signature = {"x86_64": 0x53053053, "aarch64": 0xD428BC00}[os.uname().machine]
    assert libc.syscall(number, area, size, 0, signature) == -1, "it was not registered any more"
    assert ctypes.get_errno() == errno.EBUSY, ctypes.get_errno()
    cpu = ctypes.c_uint.from_address(area.value + 4).value
    assert cpu in os.sched_getaffinity(0), cpu


@case
def large_deleted_file():
    file = open("large", "w+b")
    file.write(b"begin")
    file.seek(GHOST_BYTES)
    file.write(b"end")
    file.flush()
    os.unlink("large")
    yield
    assert os.fstat(file.fileno()).st_size == GHOST_BYTES + 3 and os.fstat(file.fileno()).st_nlink == 0
    file.seek(0)
    assert file.read(6) == b"begin\0"
    file.seek(GHOST_BYTES)
    assert file.read() == b"end"


@case
def message_queues_that_are_empty():
    """The mount is there, and a queue has been; what is made afterwards is there too."""
    rt = ctypes.CDLL("librt.so.1", use_errno=True)
    call(rt.mq_open(b"/before", os.O_CREAT | os.O_RDWR, 0o600, None), "mq_open")
    os.close(os.open("/dev/mqueue/before", os.O_RDONLY))
    call(rt.mq_unlink(b"/before"), "mq_unlink")
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/before"):
                os.close(int(fd))
        except FileNotFoundError:
            pass
    yield
    assert os.listdir("/dev/mqueue") == []
    queue = call(rt.mq_open(b"/after", os.O_CREAT | os.O_RDWR, 0o600, None), "mq_open")
    assert os.listdir("/dev/mqueue") == ["after"]
    call(rt.mq_send(queue, b"text", 4, 0), "mq_send")
    call(rt.mq_unlink(b"/after"), "mq_unlink")


@case
def listening_sockets():
    """Of each kind; nobody has come before."""
    made = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", 8090)), (socket.AF_INET6, ("::1", 8090))):
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(7)
        made.append((family, address, sock))
    packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    packets.bind("\0rows")
    packets.listen(3)
    made.append((socket.AF_UNIX, "\0rows", packets))
    yield
    for family, address, sock in made:
        client = socket.socket(family, sock.type)
        client.connect(address)
        server, _ = sock.accept()
        server.send(b"hello")
        assert client.recv(9) == b"hello"
        if family != socket.AF_UNIX:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


if __name__ == "__main__":
    chkpnt_cases.start()
